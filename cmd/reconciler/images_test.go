package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"reconciler/reconcile/source/sourcetest"
	"reconciler/runtime/image"
	"reconciler/runtime/image/imagetest"
)

// images returns what a verb that lists images says with -o json.
func (s *server) images(args ...string) []image.Image {
	s.t.Helper()
	var list []image.Image
	out := s.must(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		s.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return list
}

func has(list []image.Image, ref string) bool {
	return slices.ContainsFunc(list, func(i image.Image) bool { return i.Ref == ref })
}

// The image verbs against a real registry: what is pulled is listed, told of, saved, pruned, loaded again and run.
func TestImages(t *testing.T) {
	s := newServer(t)
	registry := imagetest.Registry(t, imagetest.RegistryOptions{})
	used, unused := registry+"/shop/used:1", registry+"/shop/unused:1"
	box := imagetest.Busybox(t, v1.Config{Entrypoint: []string{"/bin/sh", "-c", "echo from the image; exec sleep 100000"}})
	imagetest.Push(t, used, box)
	digest := imagetest.Push(t, unused, imagetest.Busybox(t, v1.Config{}, imagetest.File{Name: "etc/more", Body: "more"}))

	if list := s.images("image", "ls"); len(list) != 0 {
		t.Errorf("images of a new server: %+v", list)
	}
	pulled := s.images("image", "pull", unused)
	if len(pulled) != 1 || pulled[0].Ref != unused || pulled[0].Digest != digest || len(pulled[0].Layers) != 2 {
		t.Fatalf("pull: %+v", pulled)
	}
	for _, name := range []string{unused, digest, digest[:19]} {
		if out := s.must("image", "inspect", name); !strings.Contains(out, digest) {
			t.Errorf("inspect %s: %s", name, out)
		}
	}
	captured := s.images("image", "capture", "/bin/busybox:/bin/sh", "--allow-capture", "/bin")
	if len(captured) != 1 || !strings.HasPrefix(captured[0].Ref, "capture:") {
		t.Errorf("capture: %+v", captured)
	}

	// A container needs one of the two: prune leaves it, and takes the others.
	repo := repository(t, sourcetest.Files{"a.yaml": "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: a}\n" +
		"spec: {image: \"" + used + "\", network: none, init: true, terminationGracePeriodSeconds: 1}\n"})
	s.must("sync", "--repo", repo.Bare, "--timeout", patience)
	said := s.follow("logs", "-f", "a")
	said.await("from the image")
	said.stop()
	archive := filepath.Join(s.dir, "unused.tar")
	s.must("image", "save", archive, unused)
	if out := s.must("image", "prune"); !strings.Contains(out, "removed "+unused) || !strings.Contains(out, "2 images") {
		t.Errorf("prune: %q", out)
	}
	if list := s.images("image", "ls"); len(list) != 1 || !has(list, used) {
		t.Errorf("after prune: %+v", list)
	}

	// What was saved comes back the same, from a file and through a pipe.
	if list := s.images("image", "load", archive); !has(list, unused) || list[0].Digest != digest {
		t.Errorf("load: %+v", list)
	}
	piped := s.do("image", "save", "-", unused)
	s.must("image", "prune")
	if r := s.doWith(strings.NewReader(piped.out), "image", "load", "-"); r.code != 0 || !has(s.images("image", "ls"), unused) {
		t.Errorf("save | load: status %d\n%s%s", r.code, piped.err, r.err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") }) {
		t.Errorf("save left: %v %v", err, entries)
	}
	s.mustFail(t, []badLine{
		{"image pull " + registry + "/shop/none:1", []string{registry + "/shop/none:1", "hint: "}},
		{"image pull 127.0.0.1:1/x:1", []string{"refused", "hint: check that the registry is up"}},
		{"image pull UPPER:1", []string{"UPPER"}},
		{"image pull x --policy Sometimes", []string{`--policy "Sometimes": want Always or IfNotPresent`}},
		{"image inspect nope", []string{"nope: no such image", "hint: `reconciler image ls`"}},
		{"image save " + s.dir + "/x.tar nope", []string{"nope: no such image", "hint: `reconciler image ls`"}},
		{"image save " + s.dir + "/no/dir/x.tar " + used, []string{s.dir + "/no/dir", "no such file or directory"}},
		{"image load " + s.dir + "/nothing.tar", []string{"nothing.tar: no such file or directory"}},
		{"image load " + s.bin, []string{s.bin, "hint: give it a file that `docker save`"}},
		{"image capture /bin/busybox", []string{"not below --allow-capture", "hint: name a directory that it is below with --allow-capture"}},
		{"image capture busybox --allow-capture /bin", []string{"not an absolute path", "hint: write it from the root"}},
	})
}

// A volume outlives its container, is found as an orphan, and is removed only when nobody uses it.
func TestVolumes(t *testing.T) {
	s := newServer(t)
	with := busybox("a", "date >> /data/starts; "+forever,
		"resources: {limits: {disk: 8Mi}}", "mounts: [{path: /data, volume: {name: data, size: 16Mi}}]")
	repo := repository(t, sourcetest.Files{"a.yaml": with, "b.yaml": busybox("b", forever)})
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	if out := s.must("volume", "ls"); !strings.Contains(out, "data") || !strings.Contains(out, "16Mi") || strings.Contains(out, "orphan") {
		t.Errorf("volume ls: %s", out)
	}
	s.mustFail(t, []badLine{
		{"volume rm data", []string{"data", "in use"}},
		{"volume rm nope", []string{"nope: no such volume", "hint: "}},
		{"volume rm", []string{"wants NAME…", "hint: usage: "}},
	})
	repo.CommitPush("a goes", sourcetest.Files{"a.yaml": sourcetest.Removed})
	s.must("sync", "--timeout", patience)
	if out := s.must("volume", "ls"); !strings.Contains(out, "nobody (orphan)") {
		t.Errorf("volume ls: %s", out)
	}
	repo.CommitPush("a comes back", sourcetest.Files{"a.yaml": with})
	s.must("sync", "--timeout", patience)
	if out := s.must("exec", "a", "--", "/bin/busybox", "wc", "-l", "/data/starts"); !strings.HasPrefix(out, "2 ") {
		t.Errorf("the volume did not outlive its container: %q", out)
	}
	repo.CommitPush("a goes again", sourcetest.Files{"a.yaml": sourcetest.Removed})
	s.must("sync", "--timeout", patience)
	if out := s.must("volume", "rm", "data", "-o", "json"); !json.Valid([]byte(out)) {
		t.Errorf("volume rm: %q", out)
	}
	if out := s.must("volume", "ls", "-o", "json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("volume ls after rm: %s", out)
	}
}
