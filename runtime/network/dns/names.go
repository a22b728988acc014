package dns

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	mdns "github.com/miekg/dns"

	"reconciler/runtime/atomicfile"
)

// Names is what the server knows.
type Names struct {
	Version int `json:"version"` // set by WriteNames
	// Listen are the addresses to answer on, at port 53. They need not exist yet.
	Listen []netip.Addr `json:"listen"`
	// Sources are the networks from which questions are answered; others get no answer at all.
	Sources    []netip.Prefix `json:"sources"`
	Containers []Container    `json:"containers,omitempty"`
}

// Container is one that may ask, and whose name is answered.
type Container struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
	// Hidden may ask like any other, but its name does not mean it: one that is not ready beside one that serves.
	Hidden bool `json:"hidden,omitempty"`
}

const namesVersion = 1

// WriteNames replaces the file at path; a server that runs answers by it at once.
func WriteNames(path string, names Names) error {
	names.Version = namesVersion
	data, err := json.MarshalIndent(names, "", " ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'), 0o600)
}

// index is Names for looking up.
type index struct {
	names      Names
	namespaces map[netip.Addr]string   // of who asks
	addresses  map[string][]netip.Addr // by name.namespace
	pointers   map[string]string       // name.namespace by in-addr.arpa name
}

func parseNames(data []byte) (*index, error) {
	x := &index{namespaces: map[netip.Addr]string{}, addresses: map[string][]netip.Addr{}, pointers: map[string]string{}}
	if err := json.Unmarshal(data, &x.names); err != nil {
		return nil, err
	}
	if x.names.Version != namesVersion {
		return nil, fmt.Errorf("version %d is not known to this release", x.names.Version)
	}
	for _, c := range x.names.Containers {
		full := strings.ToLower(c.Name + "." + c.Namespace)
		for _, a := range c.Addresses {
			x.namespaces[a] = c.Namespace
			if arpa, err := mdns.ReverseAddr(a.String()); err == nil {
				x.pointers[arpa] = full
			}
		}
		if !c.Hidden {
			x.addresses[full] = append(x.addresses[full], c.Addresses...)
		}
	}
	return x, nil
}

// mayAsk reports whether questions from there are answered.
func (x *index) mayAsk(from netip.Addr) bool {
	for _, p := range x.names.Sources {
		if p.Contains(from) {
			return true
		}
	}
	return false
}

// answer returns the records for a question, and whether it is about what this server knows; if not, it is passed on.
// A name that is known has an answer for every type, if an empty one: an error would make it unknown altogether.
func (x *index) answer(q mdns.Question, from netip.Addr) (records []mdns.RR, code int, known bool) {
	name := strings.ToLower(q.Name)
	if strings.HasSuffix(name, ".arpa.") {
		return x.pointer(q, name)
	}
	key := strings.TrimSuffix(name, ".")
	if !strings.Contains(key, ".") {
		key += "." + x.namespaces[from]
	}
	addresses, known := x.addresses[key]
	if !known || q.Qclass != mdns.ClassINET {
		return nil, 0, false
	}
	for _, a := range addresses {
		header := mdns.RR_Header{Name: q.Name, Class: mdns.ClassINET, Ttl: ttl}
		switch {
		case a.Is4() && (q.Qtype == mdns.TypeA || q.Qtype == mdns.TypeANY):
			header.Rrtype = mdns.TypeA
			records = append(records, &mdns.A{Hdr: header, A: a.AsSlice()})
		case a.Is6() && (q.Qtype == mdns.TypeAAAA || q.Qtype == mdns.TypeANY):
			header.Rrtype = mdns.TypeAAAA
			records = append(records, &mdns.AAAA{Hdr: header, AAAA: a.AsSlice()})
		}
	}
	return records, mdns.RcodeSuccess, true
}

// ttl is short: the next container of a name may have another address.
const ttl = 1 // seconds

// pointer answers for the bridge's networks only. Nobody else knows anything of them.
func (x *index) pointer(q mdns.Question, name string) (records []mdns.RR, code int, known bool) {
	if full, found := x.pointers[name]; found {
		if q.Qtype == mdns.TypePTR || q.Qtype == mdns.TypeANY {
			records = append(records, &mdns.PTR{
				Hdr: mdns.RR_Header{Name: q.Name, Rrtype: mdns.TypePTR, Class: mdns.ClassINET, Ttl: ttl}, Ptr: full + ".",
			})
		}
		return records, mdns.RcodeSuccess, true
	}
	if a, ok := fromArpa(name); ok && x.mayAsk(a) {
		return nil, mdns.RcodeNameError, true
	}
	return nil, 0, false
}

// fromArpa is the address that a whole name below in-addr.arpa or ip6.arpa stands for.
func fromArpa(name string) (netip.Addr, bool) {
	if v4, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(v4, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil && a.Is4()
	}
	v6, ok := strings.CutSuffix(name, ".ip6.arpa.")
	digits := strings.ReplaceAll(v6, ".", "")
	if !ok || len(v6) != 63 || len(digits) != 32 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := len(digits) - 1; i >= 0; i-- {
		b.WriteByte(digits[i])
		if i%4 == 0 && i > 0 {
			b.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil
}
