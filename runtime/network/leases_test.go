package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"reconciler/runtime"
)

func newState(subnet string) *state {
	s := &state{Version: stateVersion}
	s.rebase(netip.MustParsePrefix(subnet))
	return s
}

func called(name string) runtime.Name { return runtime.Name{Namespace: "default", Name: name} }

// script is what happens to leases, step by step: "a=web" leases a to the name web, "-a" releases it, "+" lets released
// addresses rest. Each lease has to have the address wanted.
func TestLeases(t *testing.T) {
	for name, steps := range map[string][][2]string{
		"the same id, the same address":           {{"a=web", "2"}, {"a=web", "2"}},
		"Recreate keeps the address":              {{"a=web", "2"}, {"-a", ""}, {"b=web", "2"}},
		"StartFirst takes a second":               {{"a=web", "2"}, {"b=web", "3"}},
		"and lets the old one rest":               {{"a=web", "2"}, {"b=web", "3"}, {"-a", ""}, {"c=web", "4"}},
		"until it has rested":                     {{"a=web", "2"}, {"b=web", "3"}, {"-a", ""}, {"+", ""}, {"c=web", "2"}},
		"the last that the name had comes back":   {{"a=web", "2"}, {"b=web", "3"}, {"-a", ""}, {"-b", ""}, {"c=web", "3"}},
		"another name takes one that nobody had":  {{"a=web", "2"}, {"-a", ""}, {"b=db", "3"}, {"c=web", "2"}},
		"a new address even when the old rested":  {{"a=web", "2"}, {"-a", ""}, {"+", ""}, {"b=db", "3"}},
		"full: what rests is not given to others": {{"a=a", "2"}, {"b=b", "3"}, {"c=c", "4"}, {"d=d", "5"}, {"e=e", "6"}, {"-b", ""}, {"f=f", "none"}},
		"full: what has rested longest is":        {{"a=a", "2"}, {"b=b", "3"}, {"c=c", "4"}, {"d=d", "5"}, {"e=e", "6"}, {"-c", ""}, {"-b", ""}, {"+", ""}, {"f=f", "4"}, {"g=g", "3"}},
		"full: its own name gets it at once":      {{"a=a", "2"}, {"b=b", "3"}, {"c=c", "4"}, {"d=d", "5"}, {"e=e", "6"}, {"-b", ""}, {"f=b", "3"}},
		"full: its own name gets one too soon":    {{"a=web", "2"}, {"b=web", "3"}, {"-a", ""}, {"c=web", "4"}, {"-b", ""}, {"d=web", "5"}, {"e=e", "6"}, {"f=web", "2"}, {"g=g", "none"}},
		"releasing what has none":                 {{"-a", ""}, {"a=web", "2"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, now := newState("10.0.0.0/29"), time.Unix(0, 0)
			for _, step := range steps {
				var id, name string
				switch {
				case step[0] == "+":
					now = now.Add(rested)
				case step[0][0] == '-':
					s.release(runtime.ID(step[0][1:]), now)
				default:
					id, name = step[0][:1], step[0][2:]
					l, _, err := s.lease(runtime.ID(id), called(name), now)
					if step[1] == "none" {
						if !errors.Is(err, errNoAddress) {
							t.Errorf("%s: %v, %v; want none", step[0], l.IP, err)
						}
					} else if want := "10.0.0." + step[1]; err != nil || l.IP.String() != want {
						t.Errorf("%s: %v, %v; want %s", step[0], l.IP, err, want)
					}
				}
			}
		})
	}
}

// Whatever happens, no address is held twice, none is the bridge's or the broadcast's, and none that another name
// released less than its rest ago is given out.
func TestLeasesProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, now := newState(fmt.Sprintf("10.0.0.0/%d", rapid.IntRange(26, 29).Draw(t, "bits"))), time.Unix(0, 0)
		released := map[netip.Addr]resting{}
		for i := range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 120).Draw(t, "seconds")) * time.Second)
			if rapid.Bool().Draw(t, "release") && len(s.Leases) > 0 {
				l := s.Leases[rapid.IntRange(0, len(s.Leases)-1).Draw(t, "which")]
				released[l.IP] = resting{Name: l.Name, IP: l.IP, Since: now}
				s.release(l.ID, now)
				continue
			}
			name := called(fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "name")))
			l, _, err := s.lease(runtime.ID(fmt.Sprint(i)), name, now)
			if errors.Is(err, errNoAddress) {
				continue
			}
			if r, ok := released[l.IP]; ok && r.Name != name && now.Sub(r.Since) < rested {
				t.Fatalf("%s got %s, which %s had %s ago", name, l.IP, r.Name, now.Sub(r.Since))
			}
			held := map[netip.Addr]bool{gateway(s.Subnet): true, s.Subnet.Addr(): true, broadcast(s.Subnet): true}
			for _, l := range s.Leases {
				if held[l.IP] || !s.Subnet.Contains(l.IP) || l.MAC != macOf(l.IP) {
					t.Fatalf("lease %+v", l)
				}
				held[l.IP] = true
			}
		}
	})
}

func TestRestingIsBounded(t *testing.T) {
	s, now := newState("10.0.0.0/16"), time.Unix(0, 0)
	for i := range 3 * maxResting {
		id := runtime.ID(fmt.Sprint(i))
		if _, _, err := s.lease(id, called(string(id)), now); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
		s.release(id, now)
	}
	if len(s.Resting) > maxResting {
		t.Errorf("%d addresses are remembered, want %d at most", len(s.Resting), maxResting)
	}
}

// The format on disk: what this release writes, and what it must always be able to read.
func TestLeasesFile(t *testing.T) {
	st := newState("10.77.0.0/16")
	st.Subnet6 = netip.MustParsePrefix("fd12:3456:789a::/64")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, id := range []string{"web-1", "db-1"} {
		if _, _, err := st.lease(runtime.ID(id), called(id[:len(id)-2]), now); err != nil {
			t.Fatal(err)
		}
	}
	st.release("db-1", now)
	port := runtime.Port{
		Name: "http", HostIP: netip.MustParseAddr("0.0.0.0"), HostPort: 80, ContainerPort: 8080, Protocol: protocolTCP,
		Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	}
	if _, _, err := st.publish("web-1", []runtime.Port{port}); err != nil {
		t.Fatal(err)
	}
	s := store{dir: t.TempDir()}
	if err := s.write(*st); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(s.path())
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "leases.v1.json")
	want, err := os.ReadFile(golden)
	if err != nil || string(got) != string(want) {
		t.Errorf("%s (%v):\n%s\nwant\n%s", golden, err, got, want)
	}
	read, err := s.read()
	if err != nil || len(read.Leases) != 1 || read.Leases[0].MAC != st.Leases[0].MAC || read.Leases[0].Ports[0].Allow[0] != port.Allow[0] || read.Resting[0] != st.Resting[0] {
		t.Errorf("read back: %+v, %v", read, err)
	}
}

func TestBrokenLeasesFileIsAClearError(t *testing.T) {
	for _, content := range []string{"garbage", "", `{"version": 2}`, `{"version": 1, "leases": [{"mac": "zz"}]}`} {
		b := Open(Config{Instance: "x", StateDir: t.TempDir()})
		if err := os.MkdirAll(b.store.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(b.store.path(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Leases(); err == nil || runtime.HintOf(err) == "" || !runtime.IsPermanent(err) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// What is kept of leases never shows: the file is what encoding/json makes of the state, whatever became of it in between.
func TestEncoderIsMarshal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e encoder
		st := state{Version: stateVersion, Subnet: netip.MustParsePrefix("10.77.0.0/24"), Subnet6: netip.MustParsePrefix("fd00::/64")}
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		ids := rapid.SampledFrom([]runtime.ID{"a-1", "a-2", "b-1", "c-1"})
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(time.Minute)
			id := ids.Draw(t, "id")
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				_, _, err := st.lease(id, runtime.Name{Namespace: "default", Name: string(id[:1])}, now)
				if err != nil {
					t.Fatal(err)
				}
			case 1:
				st.release(id, now)
			case 2:
				port := runtime.Port{HostPort: rapid.Uint16Range(1, 3).Draw(t, "port"), ContainerPort: 80, Protocol: protocolTCP}
				_, _, _ = st.publish(id, []runtime.Port{port})
			case 3:
				st.unpublish(runtime.Name{Namespace: "default", Name: string(id[:1])})
			}
			got, err := e.encode(st)
			want, wantErr := json.Marshal(st)
			if err != nil || wantErr != nil || string(got) != string(want)+"\n" {
				t.Fatalf("%s, %v\nwant\n%s, %v", got, err, want, wantErr)
			}
		}
	})
}

// A lease that differs in any field is another one.
func TestEqualLeases(t *testing.T) {
	port := func(change func(p *runtime.Port)) func(*Lease) {
		return func(l *Lease) {
			l.Ports = slices.Clone(l.Ports)
			change(&l.Ports[0])
		}
	}
	ofLease := []func(l *Lease){
		func(l *Lease) { l.ID = "x" }, func(l *Lease) { l.Name.Namespace = "x" }, func(l *Lease) { l.IP = l.IP.Next() },
		func(l *Lease) { l.IPv6 = l.IPv6.Next() }, func(l *Lease) { l.MAC[5]++ }, func(l *Lease) { l.Ports = nil },
	}
	ofPort := []func(l *Lease){
		port(func(p *runtime.Port) { p.Name = "x" }), port(func(p *runtime.Port) { p.HostIP = netip.IPv6Unspecified() }),
		port(func(p *runtime.Port) { p.HostPort++ }), port(func(p *runtime.Port) { p.ContainerPort++ }),
		port(func(p *runtime.Port) { p.Protocol = protocolUDP }), port(func(p *runtime.Port) { p.Allow = nil }),
	}
	if reflect.TypeFor[Lease]().NumField() != len(ofLease) || reflect.TypeFor[runtime.Port]().NumField() != len(ofPort) {
		t.Error("a field is not tried, and maybe not compared")
	}
	l := Lease{
		ID: "a-1", Name: runtime.Name{Name: "a"}, IP: netip.MustParseAddr("10.77.0.2"), IPv6: netip.MustParseAddr("fd00::2"),
		Ports: []runtime.Port{{HostPort: 1, ContainerPort: 2, Protocol: protocolTCP, Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}},
	}
	for i, change := range append(ofLease, ofPort...) {
		other := l
		if change(&other); l.equal(other) || !l.equal(l) {
			t.Errorf("change %d: %+v", i, other)
		}
	}
}

// What is kept of the file in memory is not what another process has written since.
func TestAnotherProcessChangesLeases(t *testing.T) {
	dir := t.TempDir()
	nothing := func(*state) {}
	a, b := store{dir: dir, undo: nothing}, store{dir: dir, undo: nothing}
	add := func(s *store, id runtime.ID) {
		t.Helper()
		err := s.change(func(st *state) (bool, error) {
			if !st.Subnet.IsValid() {
				st.rebase(netip.MustParsePrefix("10.77.0.0/24"))
			}
			_, changed, err := st.lease(id, called(string(id)), time.Now())
			return changed, err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		add(&a, runtime.ID(fmt.Sprintf("a-%d", i)))
		add(&b, runtime.ID(fmt.Sprintf("b-%d", i)))
		for _, s := range []*store{&a, &b} {
			if st, err := s.read(); err != nil || len(st.Leases) != 2*i+2 {
				t.Fatalf("%d leases, %v; want %d", len(st.Leases), err, 2*i+2)
			}
		}
	}
	failed := errors.New("failed")
	err := a.change(func(st *state) (bool, error) {
		st.Leases[0].IP = st.Leases[1].IP
		st.release("a-1", time.Now())
		return true, failed
	})
	if st, readErr := a.read(); !errors.Is(err, failed) || readErr != nil || len(st.Leases) != 40 || st.Leases[0].IP == st.Leases[1].IP {
		t.Errorf("%v, %v, and after a change that failed: %+v", err, readErr, st)
	}
}
