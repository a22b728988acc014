package linux

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"reconciler/runtime/failpoint"
	"reconciler/runtime/network/dns"
	"reconciler/runtime/supervisor"
)

// namesFile, in the run directory, tells the name server who has which address.
const namesFile = "names.json"

func (r *Runtime) namesPath() string { return filepath.Join(r.cfg.RunDir, namesFile) }

// announce makes the names of the containers that hold addresses those that the name server knows: a name means who serves by
// the records, or to, which is about to.
func (r *Runtime) announce(ctx context.Context, to *entry) error {
	r.names.Lock() // whoever wrote last must have read last
	defer r.names.Unlock()
	entries, err := r.entries("")
	if err != nil { // one broken record must not hold up the others
		r.log.Warn("cannot tell whether a container serves: its name is not answered", "err", err)
	}
	first := servers(entries)
	if to != nil {
		first[to.Spec.Name] = to
	}
	leases, err := r.net.Leases()
	if err != nil {
		return err
	}
	if len(leases) == 0 { // nobody is there to ask
		failpoint.Here("names: the last one there")
		if err = os.Remove(r.namesPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		failpoint.Here("names: none left")
		return nil
	}
	gateway, err := r.net.Gateway(ctx)
	if err != nil {
		return err
	}
	names := dns.Names{Listen: []netip.Addr{gateway.Address}, Sources: []netip.Prefix{gateway.Subnet}}
	if gateway.Address6.IsValid() {
		names.Listen, names.Sources = append(names.Listen, gateway.Address6), append(names.Sources, gateway.Subnet6)
	}
	for _, l := range leases {
		name, _, _ := strings.Cut(l.Name.Name, "#") // the runs of a CronJob have its name
		c := dns.Container{
			Namespace: l.Name.Namespace, Name: name, Addresses: []netip.Addr{l.IP},
			Hidden: first[l.Name] == nil || first[l.Name].ID != l.ID,
		}
		if l.IPv6.IsValid() {
			c.Addresses = append(c.Addresses, l.IPv6)
		}
		names.Containers = append(names.Containers, c)
	}
	return dns.WriteNames(r.namesPath(), names)
}

// RunSupervisor is the process that Config.Self runs: the parent of the instance's containers, and the server of their
// names. It returns when ctx ends or a client shuts it down; containers keep running.
func RunSupervisor(ctx context.Context, cfg supervisor.Config) error {
	// The directory that is watched has to be there.
	if err := os.MkdirAll(cfg.RunDir, 0o700); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var answering sync.WaitGroup
	var names *dns.Server
	cfg.Files = func() []*os.File { return names.Sockets() }
	cfg.Begin = func(sockets []*os.File) {
		names = dns.New(dns.Config{NamesFile: filepath.Join(cfg.RunDir, namesFile), Sockets: sockets, Log: cfg.Logger})
		answering.Go(func() {
			// Without names containers run all the same.
			err := names.Run(ctx)
			if err != nil && ctx.Err() == nil && cfg.Logger != nil {
				cfg.Logger.Error("names are not answered any more", "err", err)
			}
		})
	}
	err := supervisor.Run(ctx, cfg)
	cancel()
	answering.Wait()
	return err
}
