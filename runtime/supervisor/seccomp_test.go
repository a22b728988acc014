package supervisor

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Containers with the same profile share one filter, and never one with another profile.
func TestFiltersAreShared(t *testing.T) {
	if !Seccomp() {
		t.Skip("built without seccomp")
	}
	profile := func(name string) json.RawMessage {
		text, err := json.Marshal(specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{name}, Action: specs.ActErrno}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	var f filters
	first, err := f.of(profile("call0"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := f.of(profile("call0")); err != nil || again != first {
		t.Errorf("the same profile: %p and %p, %v", first, again, err)
	}
	for i := range 3 * maxFilters {
		name := fmt.Sprint("call", i)
		got, err := f.of(profile(name))
		if err != nil || len(got.Syscalls) != 1 || got.Syscalls[0].Name != name {
			t.Fatalf("%s: %+v, %v", name, got, err)
		}
	}
	if len(f.known) > maxFilters {
		t.Errorf("%d are kept", len(f.known))
	}
	for _, none := range []json.RawMessage{nil, json.RawMessage("null")} {
		if got, err := f.of(none); err != nil || got != nil {
			t.Errorf("no profile: %+v, %v", got, err)
		}
	}
	if got, err := f.of(json.RawMessage(`{"defaultAction": "nonsense"}`)); err == nil {
		t.Errorf("a bad profile: %+v", got)
	}
}
