package reconcile

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
	"reconciler/runtime"
)

// published makes a file with one container that is published on a port of the server.
func published(name, port string) map[string]string {
	file := containers("  ports: [{containerPort: 8080, hostPort: "+port+"}]\n", name)
	file["all.yaml"] = strings.ReplaceAll(file["all.yaml"], "network: none", "network: bridge")
	return file
}

func TestPortThatAProgramHas(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		var asked atomic.Int64
		var ended, silent atomic.Bool // the program; the kernel
		w.cfg.TakenPorts = func(context.Context) ([]plan.TakenPort, error) {
			asked.Add(1)
			switch {
			case silent.Load():
				return nil, errors.New("the kernel does not say")
			case ended.Load():
				return nil, nil
			}
			return []plan.TakenPort{{Protocol: "TCP", Port: 80, By: "a program that listens"}}, nil
		}
		w.push(merge(published("web", "80"), containers("", "db")))
		w.start()
		defer w.stop()
		w.wantRunning("db")
		row := w.row("web")
		if row.Reason != plan.ReasonPortConflict || row.Health != report.Degraded || !strings.Contains(row.Message, "a program that listens") {
			t.Fatalf("%+v", row)
		}
		if s := w.status(); s.Health != report.Degraded || !strings.Contains(s.Message, "80/TCP") {
			t.Errorf("status %+v", s)
		}
		ended.Store(true) // nobody tells, and the next look sees it
		after(time.Minute)
		w.wantRunning("db", "web")
		if row = w.row("web"); len(row.Ports) != 1 || row.Ports[0] != "0.0.0.0:80->8080/tcp" || row.IP == "" || row.MAC == "" {
			t.Errorf("%+v", row)
		}
		before := asked.Load()
		after(time.Hour)
		if now := asked.Load(); now != before {
			t.Errorf("asked %d times for ports in use while nothing was to be published", now-before)
		}
		silent.Store(true)
		pid := row.Pid
		w.push(merge(published("web", "81"), containers("", "db")))
		if row = w.row("web"); len(row.Ports) != 1 || row.Ports[0] != "0.0.0.0:81->8080/tcp" || row.Pid != pid {
			t.Errorf("after the port changed: %+v", row)
		}
	})
}

func TestNoRoom(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.cfg.Facts.Capacity = plan.Amounts{CPUMillis: 2000}
		w.cfg.Policy.Reserve = plan.Amounts{CPUMillis: 100}
		const wants = "  resources: {requests: {cpu: 900m}}\n"
		w.push(containers(wants, "a", "b", "c"))
		w.start()
		defer w.stop()
		w.wantRunning("a", "b")
		const message = "wants cpu 900m, free 100m: 2000m of this server less 100m reserved less 1800m requested by 2 containers"
		row := w.row("c")
		if row.Reason != plan.ReasonInsufficient || row.Message != message || row.State != report.StatePending {
			t.Fatalf("%+v", row)
		}
		if result, err := w.agent.Sync(t.Context()); err != nil || result.Outcome != SyncFailed || !strings.Contains(result.Message, message) {
			t.Errorf("sync: %+v, %v", result, err)
		}
		w.rt.Exit(w.idOf("a"), 1) // what was admitted comes back to its own room
		w.wantRunning("a", "b")
		w.push(containers(wants, "b", "c"))
		w.wantRunning("b", "c")
	})
}

func TestNetworkThatEnded(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		shares := containers("", "sidecar")
		shares["all.yaml"] = strings.ReplaceAll(shares["all.yaml"], "network: none", "network: container:web")
		w.push(merge(published("web", "80"), shares))
		w.start()
		defer w.stop()
		w.wantRunning("sidecar", "web")
		shared := func() runtime.StartOf {
			for _, o := range w.view().Observed {
				if o.Shares != nil {
					return *o.Shares
				}
			}
			return runtime.StartOf{}
		}
		first, pid := shared(), w.row("sidecar").Pid
		if first.ID != w.idOf("web") {
			t.Fatalf("shares the network of %+v", first)
		}
		w.rt.Exit(first.ID, 1)
		w.wantRunning("sidecar", "web")
		if again := shared(); again.ID != first.ID || again.Starts != 2 || w.row("sidecar").Pid == pid {
			t.Errorf("after web was started again the other has start %+v", again)
		}
		changed := published("web", "80")
		changed["all.yaml"] += "  env: {A: b}\n"
		w.push(merge(changed, shares))
		w.wantRunning("sidecar", "web")
		if again := shared(); again.ID == first.ID || again.ID != w.idOf("web") {
			t.Errorf("after web was replaced the other has %+v", again)
		}
	})
}
