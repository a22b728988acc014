package network

import (
	"bytes"
	"encoding/json"
	"slices"

	"reconciler/runtime"
)

// encoder makes the content of leases.json. It keeps what each lease came to the last time: hundreds are as they were when one
// is added. What it keeps is right as long as the lease is equal.
type encoder struct {
	leases  map[runtime.ID]encodedLease
	resting map[resting][]byte
}

type encodedLease struct {
	lease Lease
	text  []byte
}

// encode is json.Marshal of st, and a newline.
func (e *encoder) encode(st state) ([]byte, error) {
	head := st
	head.Leases, head.Resting = nil, nil // the last two fields: what is without them is the beginning
	out, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	out = bytes.TrimSuffix(out, []byte("}"))
	leases, err := e.encodeLeases(st.Leases)
	if err != nil {
		return nil, err
	}
	rests, err := e.encodeResting(st.Resting)
	if err != nil {
		return nil, err
	}
	for _, list := range []struct {
		name  string
		items [][]byte
	}{{"leases", leases}, {"resting", rests}} {
		if len(list.items) > 0 {
			out = append(out, `,"`+list.name+`":[`...)
			out = append(append(out, bytes.Join(list.items, []byte(","))...), ']')
		}
	}
	return append(out, "}\n"...), nil
}

func (e *encoder) encodeLeases(leases []Lease) (texts [][]byte, err error) {
	kept := make(map[runtime.ID]encodedLease, len(leases))
	for _, l := range leases {
		k, known := e.leases[l.ID]
		if !known || !k.lease.equal(l) {
			k.lease = l
			if k.text, err = json.Marshal(l); err != nil {
				return nil, err
			}
		}
		kept[l.ID], texts = k, append(texts, k.text)
	}
	e.leases = kept
	return texts, nil
}

func (e *encoder) encodeResting(all []resting) (texts [][]byte, err error) {
	kept := make(map[resting][]byte, len(all))
	for _, r := range all {
		text, known := e.resting[r]
		if !known {
			if text, err = json.Marshal(r); err != nil {
				return nil, err
			}
		}
		kept[r], texts = text, append(texts, text)
	}
	e.resting = kept
	return texts, nil
}

func (l Lease) equal(o Lease) bool {
	return l.ID == o.ID && l.Name == o.Name && l.IP == o.IP && l.IPv6 == o.IPv6 && l.MAC == o.MAC &&
		slices.EqualFunc(l.Ports, o.Ports, func(p, q runtime.Port) bool {
			return p.Name == q.Name && p.HostIP == q.HostIP && p.HostPort == q.HostPort && p.ContainerPort == q.ContainerPort &&
				p.Protocol == q.Protocol && slices.Equal(p.Allow, q.Allow)
		})
}
