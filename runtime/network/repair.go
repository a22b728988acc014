package network

import (
	"context"
	"fmt"

	"github.com/google/nftables"

	"reconciler/runtime"
)

// repairs is what was made again, in words. A nil one takes no notes.
type repairs []string

func (r *repairs) add(format string, args ...any) {
	if r != nil {
		*r = append(*r, fmt.Sprintf(format, args...))
	}
}

// Repair makes the bridge, its rules and their elements what they should be by the leases again, where somebody changed or
// removed them: the bridge itself, its addresses, forwarding, tables, rules, elements. It says what it did, also beside an
// error. What is right is not touched, and where nobody has a lease there is nothing to repair.
func (b *Bridge) Repair(ctx context.Context) ([]string, error) {
	var done repairs
	err := b.store.changeIfMade(func(st *state) (bool, error) {
		if len(st.Leases) == 0 {
			return false, nil
		}
		return b.ensure(ctx, st, &done)
	})
	return done, err
}

// Unplugged returns who has a lease and no interface: not attached yet or any more, or somebody removed it.
func (b *Bridge) Unplugged() ([]runtime.ID, error) {
	st, err := b.store.read()
	if err != nil || len(st.Leases) == 0 {
		return nil, err
	}
	links, err := linksWith(b.names.host)
	if err != nil {
		return nil, err
	}
	there := make(map[string]bool, len(links))
	for _, l := range links {
		there[l.Attrs().Name] = true
	}
	var ids []runtime.ID
	for _, l := range st.Leases {
		if !there[b.names.hostEnd(l.ID)] {
			ids = append(ids, l.ID)
		}
	}
	return ids, nil
}

// familyName is what nft calls the family of one of the tables.
func familyName(f nftables.TableFamily) string {
	if f == nftables.TableFamilyBridge {
		return "bridge"
	}
	return "inet"
}
