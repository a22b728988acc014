package main

import "fmt"

// The names of those who are measured.
const (
	ours     = "ours"
	runc     = "runc run -d"
	crun     = "crun run -d"
	docker   = "docker run -d"
	podman   = "podman run -d"
	compose1 = "docker-compose"
	compose5 = "compose v5"
	git      = "git"
	pull     = "podman pull"
)

// unit is what a row's figures are in.
type unit string

const (
	ms       unit = "ms"
	mib      unit = "MiB"
	bytes    unit = "bytes"
	requests unit = "requests"
)

// row is one thing that is measured.
type row struct {
	id    string // what BENCH_ROWS selects; several rows may be measured together
	key   string // unique
	what  string
	unit  unit
	most  *float64 // what ours is to be at most, nil where nothing is asked
	peers []peer
}

// peer is who is measured beside ours.
type peer struct {
	who  string
	most float64 // of ours / theirs; 0 where nothing is asked
	what string  // what is measured of it, where its name does not say that
}

// daemons are what Docker needs while containers run.
const daemons = "dockerd, containerd, shims"

// rows are what is asked for and measured, for n containers.
func rows(n int) []row {
	return []row{
		{"start", "start", fmt.Sprintf("%d containers from nothing to running", n), ms, nil, []peer{
			{compose1, 1. / 6, "docker-compose up -d"},
			{compose5, 1. / 6, "compose v5 up -d"},
			{podman, 1. / 8, ""},
			{runc, 0.6, ""},
			{docker, 0, ""},
			{crun, 0, ""},
		}},
		{"one", "one-step", fmt.Sprintf("one more beside %d: its step alone", n), ms, nil, []peer{{docker, 1. / 6, ""}, {runc, 0.8, ""}}},
		{"one", "one-runs", fmt.Sprintf("one more beside %d: until its process runs", n), ms, nil, []peer{{docker, 1. / 6, ""}, {runc, 0, ""}}},
		{"one", "one-back", fmt.Sprintf("one more beside %d: until the command is back", n), ms, nil, []peer{{docker, 0, ""}, {runc, 0, ""}}},
		{"nothing", "nothing", fmt.Sprintf("nothing to do for %d", n), ms, nil, []peer{{compose1, 1. / 5, "docker-compose up -d"}, {compose5, 1. / 5, "compose v5 up -d"}}},
		{"nothing", "poll", fmt.Sprintf("nothing to do for %d: CPU of the agent", n), ms, new(10.0), nil},
		{"change", "change-runs", fmt.Sprintf("one of %d changed: until the new one runs", n), ms, nil, []peer{{compose1, 1. / 6, "docker-compose up -d"}, {compose5, 1. / 6, "compose v5 up -d"}}},
		{"change", "change-back", fmt.Sprintf("one of %d changed: until the command is back", n), ms, nil, []peer{{compose1, 0, "docker-compose up -d"}, {compose5, 0, "compose v5 up -d"}}},
		{"push", "push", "git push to a local bare repository -> new container runs", ms, new(250.0), nil},
		{"removal", "removal", fmt.Sprintf("removal of %d", n), ms, nil, []peer{
			{docker, 1. / 5, "docker rm -f"},
			{podman, 1. / 5, "podman rm -f"},
			{compose1, 0, "docker-compose down"},
			{compose5, 0, "compose v5 down"},
			{runc, 0, "runc delete -f"},
			{crun, 0, "crun delete -f"},
		}},
		{"memory", "memory", fmt.Sprintf("memory (PSS) of everything with %d", n), mib, new(40.0), []peer{{docker, 0, daemons}, {podman, 0, "conmon"}}},
		{"memory", "memory-more", "memory (PSS) of each more", mib, new(0.25), []peer{{podman, 1, "conmon"}, {docker, 1, daemons}}},
		{"idle", "idle", fmt.Sprintf("CPU of one minute at rest, %d, poll every 30 s", n), ms, new(60.0), []peer{{docker, 0, daemons}}},
		{"image", "image", "image of 10 layers and 500 MB, pull and unpack", ms, nil, []peer{{pull, 0.7, ""}}},
		{"image", "image-peak", "the same: peak memory", mib, new(100.0), []peer{{pull, 0, ""}}},
		{"git", "git-nothing", "Git over HTTP, 2,000 files and commits: nothing new", ms, new(10.0), []peer{{git, 0, "git fetch"}}},
		{"git", "git-requests", "the same: requests", requests, new(1.0), nil},
		{"git", "git-clone", "the same: first clone", ms, nil, []peer{{git, 1.5, "git clone --bare --depth 1"}}},
		{"git", "git-one", "the same: one new commit", ms, nil, []peer{{git, 1, "git fetch"}}},
		{"manifests", "load", "10,000 manifests, load and plan: cold, all for this node", ms, new(1000.0), nil},
		{"manifests", "load-one", "the same, all run: one changed", ms, new(50.0), nil},
		{"manifests", "load-few", "10,000 manifests, load and plan: cold, 100 for this node", ms, new(1000.0), nil},
		{"manifests", "load-few-one", "the same, all 100 run: one changed", ms, new(50.0), nil},
		{"disk", "disk", "written to disk at rest, 120 polls", bytes, new(0.0), nil},
	}
}

// scales are what has to stay linear: a row for each, a column for each number.
func scales() []row {
	return []row{
		{id: "scale", key: "scale-start", what: "start, each container", unit: ms},
		{id: "scale", key: "scale-nothing", what: "nothing to do", unit: ms},
		{id: "scale", key: "scale-poll", what: "nothing to do, CPU of the agent", unit: ms},
		{id: "scale", key: "scale-memory", what: "memory (PSS) of everything", unit: mib},
		{id: "scale", key: "scale-removal", what: "removal, each container", unit: ms},
		{id: "manifests", key: "scale-load", what: "load and plan, manifests all for this node: cold", unit: ms},
		{id: "manifests", key: "scale-load-one", what: "the same: one changed", unit: ms},
		{id: "manifests", key: "scale-load-few", what: "load and plan, one manifest in 100 for this node: cold", unit: ms},
		{id: "manifests", key: "scale-load-few-one", what: "the same: one changed", unit: ms},
	}
}
