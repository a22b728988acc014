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

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
	"reconciler/runtime/network/dns"
	"reconciler/runtime/supervisor"
)

// namesFile, in the run directory, tells the name server who has which address.
const namesFile = "names.json"

func (r *Runtime) namesPath() string { return filepath.Join(r.cfg.RunDir, namesFile) }

// announcements are who answers for each name, as the name server is told.
type announcements struct {
	mu     sync.Mutex // whoever wrote last must have read last
	serves map[runtime.Name]runtime.ID
}

// announce has the name server answer for a name with the addresses of a container, which may be about to serve and not on
// record yet; nil: of none.
func (r *Runtime) announce(ctx context.Context, name runtime.Name, to *entry) error {
	r.announced.mu.Lock()
	defer r.announced.mu.Unlock()
	serves := r.whoServes()
	if delete(serves, name); to != nil {
		serves[name] = to.ID
	}
	return r.tell(ctx, serves)
}

// announceLeases tells the name server who has an address now; who serves is as it was.
func (r *Runtime) announceLeases(ctx context.Context) error {
	r.announced.mu.Lock()
	defer r.announced.mu.Unlock()
	return r.tell(ctx, r.whoServes())
}

// whoServes is by the records what nobody here has changed. They are read once: whoever changes them announces it.
func (r *Runtime) whoServes() map[runtime.Name]runtime.ID {
	if r.announced.serves == nil {
		entries, err := r.entries("")
		if err != nil { // one broken record must not hold up the others
			r.log.Warn("cannot tell whether a container serves: its name is not answered", "err", err)
		}
		serves := map[runtime.Name]runtime.ID{}
		for name, e := range servers(entries) {
			serves[name] = e.ID
		}
		if err != nil {
			return serves // it may be readable the next time
		}
		r.announced.serves = serves
	}
	return r.announced.serves
}

func (r *Runtime) tell(ctx context.Context, serves map[runtime.Name]runtime.ID) error {
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
	all := dns.Names{Listen: []netip.Addr{gateway.Address}, Sources: []netip.Prefix{gateway.Subnet}}
	if gateway.Address6.IsValid() {
		all.Listen, all.Sources = append(all.Listen, gateway.Address6), append(all.Sources, gateway.Subnet6)
	}
	for _, l := range leases {
		name, _, _ := strings.Cut(l.Name.Name, "#") // the runs of a CronJob have its name
		c := dns.Container{
			Namespace: l.Name.Namespace, Name: name, Addresses: []netip.Addr{l.IP},
			Hidden: serves[l.Name] != l.ID,
		}
		if l.IPv6.IsValid() {
			c.Addresses = append(c.Addresses, l.IPv6)
		}
		all.Containers = append(all.Containers, c)
	}
	return dns.WriteNames(r.namesPath(), all)
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
