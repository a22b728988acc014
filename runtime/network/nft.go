package network

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// rulesMarker begins the name of an empty chain that says which rules a table holds.
const rulesMarker = "rules-"

// sendBuffer holds one transaction of all rules, or of a chunk of elements.
const sendBuffer = 1 << 20

// chunk is how many elements fit into one message, whose length the kernel counts in 16 bits.
const chunk = 200

// ruling returns a connection to look at rules, a socket for each question.
func ruling() (*nftables.Conn, error) { return nftables.New() }

// rules is the connection through which an instance changes its tables, under its lock. Its socket stays open: to close one
// takes about 10 ms after something was taken away, until the kernel has freed that.
type rules struct{ conn *nftables.Conn }

// with runs fn with the connection. After an error the socket may hold answers that nobody read: the next gets another.
func (r *rules) with(fn func(conn *nftables.Conn) error) (err error) {
	if r.conn == nil {
		r.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error { return c.SetWriteBuffer(sendBuffer) }))
		if err != nil {
			return err
		}
	}
	if err = fn(r.conn); err != nil {
		_ = r.conn.CloseLasting()
		r.conn = nil
	}
	return err
}

// explain says what is missing where the kernel does not know nftables or a part of it.
func explain(op string, err error) error {
	if err == nil {
		return nil
	}
	e := &runtime.Error{Op: op, Err: err}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, fs.ErrNotExist) {
		e.Hint = "the kernel needs nftables with NAT, fib and the families inet and bridge: " +
			"modprobe -a nf_tables nft_chain_nat nft_masq nft_fib_inet nft_ct"
	}
	return e
}

// bound is a set as the library wants it, in a table.
func (s set) bound(t *nftables.Table) *nftables.Set {
	b := &nftables.Set{
		Table: t, Name: s.name, Interval: s.interval, Concatenation: true,
		KeyType: nftables.MustConcatSetType(s.key...),
	}
	if len(s.val) > 0 {
		b.IsMap, b.DataType = true, nftables.MustConcatSetType(s.val...)
	}
	return b
}

// marker is a digest of the rules, so that another release, and a changed subnet, replace them.
func (t table) marker() (string, error) {
	h := sha256.New()
	for _, c := range t.chains {
		for _, r := range c.rules {
			for _, e := range r {
				b, err := expr.Marshal(byte(t.family), e)
				if err != nil {
					return "", err
				}
				h.Write(b)
			}
			h.Write([]byte("\n" + c.name + " " + string(c.kind) + "\n"))
		}
	}
	return rulesMarker + hex.EncodeToString(h.Sum(nil))[:12], nil
}

// ensureTable makes the table's chains and rules what they should be, in one transaction, and leaves elements alone.
// A table that is right is not touched; written says that it was not.
func ensureTable(conn *nftables.Conn, name string, t table) (written bool, err error) {
	marker, err := t.marker()
	if err != nil {
		return false, err
	}
	handle := &nftables.Table{Name: name, Family: t.family}
	right, old, err := inspect(conn, handle, t, marker)
	if err != nil || right {
		return false, err
	}
	conn.AddTable(handle)
	for _, s := range t.sets {
		if err = conn.AddSet(s.bound(handle), nil); err != nil {
			return false, err
		}
	}
	// All chains first: rules jump to them.
	chains := make([]*nftables.Chain, 0, len(t.chains))
	for _, c := range t.chains {
		added := conn.AddChain(&nftables.Chain{Name: c.name, Table: handle, Type: c.kind, Hooknum: c.hook, Priority: c.prio})
		conn.FlushChain(added)
		chains = append(chains, added)
	}
	for i, c := range t.chains {
		for _, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: handle, Chain: chains[i], Exprs: r})
		}
	}
	for _, c := range old {
		conn.FlushChain(c)
		conn.DelChain(c)
	}
	conn.AddChain(&nftables.Chain{Name: marker, Table: handle})
	failpoint.Here("rules: not written")
	err = conn.Flush()
	failpoint.Here("rules: written")
	return true, err
}

// inspect reports whether the table has the marker, and as many rules in each chain as it should, and which chains of it
// are left from other rules.
func inspect(conn *nftables.Conn, handle *nftables.Table, t table, marker string) (right bool, old []*nftables.Chain, err error) {
	all, err := conn.ListChainsOfTableFamily(t.family)
	if err != nil {
		return false, nil, err
	}
	marked := false
	found := map[string]*nftables.Chain{}
	for _, c := range all {
		switch {
		case c.Table.Name != handle.Name:
		case c.Name == marker:
			marked = true
		case slices.ContainsFunc(t.chains, func(want chain) bool { return want.name == c.Name }):
			found[c.Name] = c
		default:
			old = append(old, c)
		}
	}
	if !marked || len(old) > 0 {
		return false, old, nil
	}
	for _, want := range t.chains {
		c := found[want.name]
		if c == nil {
			return false, old, nil
		}
		rules, err := conn.GetRules(handle, c)
		if err != nil {
			return false, old, err
		}
		if len(rules) != len(want.rules) {
			return false, old, nil
		}
	}
	return true, old, nil
}

// elementsIn returns what the kernel has of the tables' elements, sorted.
func elementsIn(conn *nftables.Conn, name string, tables []table) ([]element, error) {
	var all []element
	for _, t := range tables {
		handle := &nftables.Table{Name: name, Family: t.family}
		for _, s := range t.sets {
			found, err := conn.GetSetElements(s.bound(handle))
			if err != nil {
				return nil, fmt.Errorf("list elements of %s: %w", s.name, err)
			}
			for _, e := range found {
				el := element{set: s.name, key: string(e.Key), val: string(e.Val)}
				if s.interval {
					el.end = string(e.KeyEnd)
				}
				all = append(all, el)
			}
		}
	}
	slices.SortFunc(all, compareElements)
	return all, nil
}

// exchange takes elements away and adds others, in one transaction.
func exchange(conn *nftables.Conn, name string, tables []table, del, add []element) error {
	for _, t := range tables {
		handle := &nftables.Table{Name: name, Family: t.family}
		for _, s := range t.sets {
			for part := range slices.Chunk(s.members(del), chunk) {
				if err := conn.SetDeleteElements(s.bound(handle), part); err != nil {
					return err
				}
			}
		}
	}
	for _, t := range tables {
		handle := &nftables.Table{Name: name, Family: t.family}
		for _, s := range t.sets {
			for part := range slices.Chunk(s.members(add), chunk) {
				if err := conn.SetAddElements(s.bound(handle), part); err != nil {
					return err
				}
			}
		}
	}
	failpoint.Here("elements: not changed")
	err := conn.Flush()
	failpoint.Here("elements: changed")
	return err
}

func (s set) members(of []element) []nftables.SetElement {
	var all []nftables.SetElement
	for _, e := range of {
		if e.set == s.name {
			all = append(all, nftables.SetElement{Key: []byte(e.key), KeyEnd: []byte(e.end), Val: []byte(e.val)})
		}
	}
	return all
}

// removeTables deletes the tables of the name, whatever is in them.
func removeTables(conn *nftables.Conn, name string) error {
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
		tables, err := conn.ListTablesOfFamily(family)
		if err != nil {
			return err
		}
		for _, t := range tables {
			if t.Name == name {
				conn.DelTable(t)
			}
		}
	}
	failpoint.Here("rules: there, the bridge gone")
	if err := conn.Flush(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete tables %s: %w", name, err)
	}
	failpoint.Here("rules: gone")
	return nil
}
