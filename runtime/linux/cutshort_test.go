package linux_test

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"reconciler/runtime"
	"reconciler/runtime/linux"
)

// A record of the release before this one says nothing of serving: the container serves, and of two the newer.
func TestEarlierRecordsServe(t *testing.T) {
	e := newEnv(t)
	tcp, udp := freePort(t), freePort(t)
	old := e.start(e.answering("web", "old", ports(tcp, udp)...))
	next := e.start(e.answering("web", "new", ports(tcp, udp)...))
	e.said(next, "listening")
	if err := os.Remove(e.cfg.StateDir + "/containers/" + string(next) + "/serving.json"); err != nil {
		t.Fatal(err)
	}
	if e.status(old).Serving || !e.status(next).Serving {
		t.Errorf("old %v, new %v", e.status(old).Serving, e.status(next).Serving)
	}
	e.restarted()
	if who, err := askedAnew(e.within(), fmt.Sprintf("127.0.0.1:%d", tcp)); who != "new" || err != nil {
		t.Errorf("%q, %v", who, err)
	}
}

// restarted is what the next agent does: it opens the same directories, and changes something that is not about any of the
// containers here.
func (e *env) restarted() {
	e.Helper()
	spec := e.spec("other", "sleep", "1")
	if _, err := e.prepare(spec); err != nil {
		e.Fatal(err)
	}
	r, err := linux.Open(e.cfg)
	if err == nil {
		_, err = r.Create(e.within(), spec)
	}
	if err != nil {
		e.Fatal(err)
	}
}

// An agent that is killed in the middle of a switch leaves a state that asks for the switch again, or that the next one puts
// right.
func TestASwitchThatWasCutShort(t *testing.T) {
	e := newEnv(t)
	tcp, udp := freePort(t), freePort(t)
	address := fmt.Sprintf("127.0.0.1:%d", tcp)
	old := e.start(e.answering("web", "old", ports(tcp, udp)...))
	e.said(old, "listening")
	client := e.start(e.bridged("client", "sleep 1000"))
	next := e.start(e.answering("web", "new", ports(tcp, udp)...))
	e.said(next, "listening")
	record := func(id runtime.ID, turn int) {
		t.Helper()
		path := e.cfg.StateDir + "/containers/" + string(id) + "/serving.json"
		if err := os.WriteFile(path+".new", fmt.Appendf(nil, `{"version":1,"turn":%d}`, turn), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	leads := func(when, who string, id runtime.ID) {
		t.Helper()
		got, err := askedAnew(e.within(), address)
		if who == "" && err == nil || who != "" && (err != nil || got != who) {
			t.Errorf("%s: %q, %v; want %q", when, got, err, who)
		}
		var want []string
		if id != "" {
			want = []string{e.status(id).IP}
		}
		if got := e.resolved(client, "web"); !slices.Equal(got, want) {
			t.Errorf("%s: the name means %v, want %v", when, got, want)
		}
	}
	serve := func(id runtime.ID, on bool) {
		t.Helper()
		if err := e.Serve(e.within(), id, on); err != nil {
			t.Fatal(err)
		}
	}

	serve(next, true)
	record(next, -1) // the way was changed, and not recorded
	if !e.status(old).Serving || e.status(next).Serving {
		t.Fatal("the list does not ask for the switch again")
	}
	leads("cut short", "new", next)
	serve(next, true)
	leads("asked for again", "new", next)

	record(next, -1)
	e.restarted()
	leads("after the next agent's first change", "old", old)

	serve(next, true)
	record(next, -1)
	if err := e.Remove(e.within(), next); err != nil {
		t.Fatal(err)
	}
	leads("after the removal of what had the ports", "old", old)

	record(old, -1) // recorded that it does not serve, and nothing done
	e.restarted()
	leads("after the next agent's first change", "", "")
}
