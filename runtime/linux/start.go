package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"reconciler/runtime"
	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
	"reconciler/runtime/image"
	"reconciler/runtime/rootfs"
	"reconciler/runtime/supervisor"
)

// Start implements runtime.Runtime.
func (r *Runtime) Start(ctx context.Context, id runtime.ID) error {
	op := "start container " + string(id)
	defer r.rest.Worked()
	defer r.locks.lock(id)()
	r.sweep(ctx)
	e, err := r.state.read(id)
	if err != nil {
		return failure(op, id, runtime.Name{}, err)
	}
	op = "start container " + e.Spec.Name.String()
	if e.removing {
		return failure(op, id, e.Spec.Name, errors.New("it is being removed"))
	}
	client, err := r.supervise(ctx)
	if err != nil {
		return failure(op, id, e.Spec.Name, err)
	}
	r.expect(ctx, client)
	if e.tried() {
		state, _, findErr := client.Find(ctx, id)
		if findErr != nil {
			return failure(op, id, e.Spec.Name, findErr)
		}
		if state.Running {
			return failure(op, id, e.Spec.Name, r.noteStarted(e, state))
		}
	}
	err = r.start(ctx, client, &e)
	if errors.Is(err, supervisor.ErrStarted) {
		return failure(op, id, e.Spec.Name, r.takeStart(ctx, client, e))
	}
	if err != nil {
		err = failure(op, id, e.Spec.Name, err)
		if ctx.Err() != nil {
			return errors.Join(err, r.state.writeRun(id, e.last)) // given up, not failed
		}
		failed := e.last
		failed.Reason, failed.Error = runtime.ReasonOf(err), err.Error()
		if writeErr := r.state.writeRun(id, failed); writeErr != nil {
			r.log.Warn("cannot record a failed start", "container", id, "err", writeErr)
		}
		return err
	}
	r.changes.send(runtime.Event{Type: runtime.EventStarted, ID: id, Name: e.Spec.Name, Time: time.Now()})
	return nil
}

// Expect says that containers may be started soon, so that the kernel can get ready meanwhile. It returns at once, and nothing
// depends on it. The kernel may have come to rest again by a start, which says so too: that is cheap where it has not.
func (r *Runtime) Expect(ctx context.Context) {
	r.rest.Worked() // to read the commit is work already
	go func() {
		if client, err := supervisor.Dial(ctx, r.supervisorConfig()); err == nil {
			_ = client.Expect(ctx)
		}
	}()
}

// readyFor is about how long the kernel stays ready after a start was begun.
const readyFor = 50 * time.Millisecond

// expect tells the supervisor that a start is coming, beside all that is to be done before. Where they come by the dozen each is
// ready for the next.
func (r *Runtime) expect(ctx context.Context, client *supervisor.Client) {
	now := time.Now().UnixNano()
	if since := now - r.expected.Swap(now); since < 0 || since > int64(readyFor) { // the clock may have been set
		go func() { _ = client.Expect(ctx) }()
	}
}

// takeStart records a start that a process had begun which is dead, and that has come to its end since.
func (r *Runtime) takeStart(ctx context.Context, client *supervisor.Client, e entry) error {
	state, known, err := client.Find(ctx, e.ID)
	if err != nil || !known {
		return err
	}
	return r.noteStarted(e, state)
}

func (r *Runtime) noteStarted(e entry, s supervisor.State) error {
	if !e.last.Starting {
		return nil
	}
	now := e.last
	now.Starting, now.Pid, now.StartTime, now.StartedAt = false, s.Pid, s.StartTime, s.StartedAt
	return r.state.writeRun(e.ID, now)
}

// start starts e. The user ids that it leases for it are noted in e, also where it fails.
func (r *Runtime) start(ctx context.Context, client *supervisor.Client, e *entry) (err error) {
	failpoint.Here("start: the last run there")
	if e.tried() {
		if err = client.DeleteSeen(ctx, e.ID, e.last.StartedAt); err != nil { // what is left of the last run
			return err
		}
		if err = r.endInit(ctx, client, *e); err != nil { // and of a start that was cut short
			return err
		}
	}
	failpoint.Here("start: the last run gone")
	if err = r.checkAppArmorProfile(e.Spec); err != nil { // it can have gone since, such as by a boot
		return err
	}
	img, err := r.imageOf(ctx, *e)
	if err != nil {
		return err
	}
	net, err := r.connect(ctx, client, *e)
	if err != nil {
		return err
	}
	failpoint.Here("start: addresses leased")
	if e.last.FirstID, err = r.leaseIDs(*e, net); err != nil {
		return err
	}
	failpoint.Here("start: user ids leased")
	now := run{Starts: e.last.Starts + 1, Starting: true, StartedAt: time.Now().UTC(), Boot: bootID(), FirstID: e.last.FirstID, Shares: net.shares}
	if net.joined != 0 && net.firstID == 0 && e.Spec.Security.HostUsers == nil {
		now.Warnings = append(now.Warnings, "it has the server's user ids, as the container whose network it shares")
	}
	if net.lease != nil {
		now.IP, now.IPv6, now.MAC = net.lease.IP, net.lease.IPv6, net.lease.MAC.String()
	}
	if err = r.state.writeRun(e.ID, now); err != nil {
		return err
	}
	failpoint.Here("start: recorded as begun")
	root, err := r.setup(ctx, *e, img, net, &now)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.roots.Teardown(e.ID))
		}
	}()
	e.last.FirstID = now.FirstID
	failpoint.Here("start: a root file system")
	if err = r.writeBundle(*e, r.state.dir(e.ID), img, root, net, &now); err != nil {
		return err
	}
	failpoint.Here("start: init containers to run")
	if err = r.runInits(ctx, client, *e, net, now); err != nil {
		return err
	}
	failpoint.Here("start: a bundle")
	started, err := client.Start(ctx, supervisor.StartRequest{
		ID: e.ID, Bundle: root.Bundle, LogDir: r.state.dir(e.ID), Logs: e.Spec.Logs,
		StopSignal: stopSignal(e.Spec, e.StopSignal),
	}, r.attach(ctx, *e, net))
	if err != nil {
		// A supervisor that could not be asked may have started it all the same.
		cleanCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		// One that died in it left a container that the next one adopts, without the network that is taken from it here.
		if _, superviseErr := r.supervise(cleanCtx); superviseErr != nil {
			err = errors.Join(err, superviseErr)
		}
		return errors.Join(err, client.Delete(cleanCtx, e.ID), r.detach(cleanCtx, *e, net))
	}
	failpoint.Here("start: it runs, not recorded")
	now.Starting, now.Pid, now.StartTime, now.StartedAt = false, started.Pid, started.StartTime, started.At
	if writeErr := r.state.writeRun(e.ID, now); writeErr != nil {
		// It runs, and the supervisor knows: what is lost is how to tell without one.
		r.log.Warn("cannot record a start", "container", e.ID, "err", writeErr)
	}
	failpoint.Here("start: recorded as running")
	return nil
}

// setup makes the root file system. Where the files cannot be shown with the container's own ids and it need not have any,
// it goes on with the server's, and says so.
func (r *Runtime) setup(ctx context.Context, e entry, img image.Image, net connection, now *run) (rootfs.Root, error) {
	users, err := r.usersOfVolumes(e.Spec)
	if err != nil {
		return rootfs.Root{}, err
	}
	req := rootfs.Request{
		Owner: e.Spec.Name.Base(), Layers: img.Layers, Mounts: e.Spec.Mounts, Devices: e.Spec.Devices, Users: users,
		FirstID: now.FirstID, Disk: e.Spec.Limits.Disk,
	}
	root, err := r.roots.Setup(ctx, e.ID, req)
	why, notMappable := errors.AsType[*rootfs.NotMappableError](err)
	switch {
	case !notMappable:
		return root, err
	case e.Spec.Security.HostUsers != nil || net.joined != 0:
		return rootfs.Root{}, cannotMap(e.Spec.Name, why)
	}
	now.Warnings = append(now.Warnings, "it has the server's user ids: none of its own are possible here: "+why.Error())
	if err = r.ids.Release(r.state.dir(e.ID), now.FirstID); err != nil {
		return rootfs.Root{}, err
	}
	now.FirstID, req.FirstID = 0, 0
	return r.roots.Setup(ctx, e.ID, req)
}

// writeBundle writes the files that every container gets and its config.json: with secrets in memory, with placeholders
// in dir, which is kept. What the container does without is noted in now.
func (r *Runtime) writeBundle(e entry, dir string, img image.Image, root rootfs.Root, net connection, now *run) error {
	user, err := img.LookUser(userSpec(e.Spec.Security, img.Config))
	if err != nil {
		return err
	}
	in := specInput{
		ID: e.ID, Instance: r.cfg.Instance, Spec: e.Spec, Image: img, User: user, Root: root, Host: r.host, FirstID: now.FirstID, Joined: net.joined,
	}
	var warning string
	if in.AppArmor, warning = r.appArmorOf(e.Spec.Security); warning != "" {
		now.Warnings = append(now.Warnings, warning)
	}
	if e.Spec.Security.Privileged {
		if in.AllDevices, err = rootfs.HostDevices(); err != nil {
			return fmt.Errorf("find the devices of this server: %w", err)
		}
	}
	if in.Files, err = writeOwnFiles(root.Bundle, e.Spec, net, now.FirstID); err != nil {
		return err
	}
	if e.Spec.Init {
		if in.Init, err = supervisor.InitBinary(r.cfg.RunDir); err != nil {
			return err
		}
	}
	vars, err := r.variables(e.Spec)
	if err != nil {
		return err
	}
	in.Spec.Env = vars.env
	spec, err := ociSpec(in)
	if err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(dir, configFile), spec); err != nil {
		return err
	}
	return writeJSON(filepath.Join(root.Bundle, configFile), withSecrets(spec, vars.secrets))
}

// writeOwnFiles makes /etc/hosts, /etc/hostname and /etc/resolv.conf.
func writeOwnFiles(dir string, spec runtime.Spec, c connection, firstID uint32) (ownFiles, error) {
	files := ownFiles{
		Hosts: filepath.Join(dir, "hosts"), Hostname: filepath.Join(dir, "hostname"), ResolvConf: filepath.Join(dir, "resolv.conf"),
	}
	var hosts, resolv string // of the server: on its network names mean what they mean there
	if spec.Network == runtime.NetworkHost {
		var err, err2 error
		hosts, err = readOrEmpty("/etc/hosts")
		resolv, err2 = readOrEmpty("/etc/resolv.conf")
		if err = errors.Join(err, err2); err != nil {
			return ownFiles{}, err
		}
	}
	for path, content := range map[string]string{
		files.Hosts: hostsFile(spec, c, hosts), files.Hostname: spec.Hostname + "\n", files.ResolvConf: resolvConf(spec, c, resolv),
	} {
		if err := atomicfile.Write(path, []byte(content), 0o644); err != nil {
			return ownFiles{}, err
		}
		if err := os.Chown(path, int(firstID), int(firstID)); err != nil {
			return ownFiles{}, err
		}
	}
	return files, nil
}

func readOrEmpty(path string) (string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(data, '\n')
	}
	return string(data), err
}

// Stop implements runtime.Runtime.
func (r *Runtime) Stop(ctx context.Context, id runtime.ID, grace time.Duration) error {
	op := "stop container " + string(id)
	e, err := r.state.read(id)
	if errors.Is(err, runtime.ErrNotFound) {
		return nil
	}
	if err != nil {
		return failure(op, id, runtime.Name{}, err)
	}
	op = "stop container " + e.Spec.Name.String()
	client, err := supervisor.Dial(ctx, r.supervisorConfig())
	if errors.Is(err, supervisor.ErrNotRunning) {
		if !e.alive() {
			return nil
		}
		client, err = r.supervise(ctx)
	}
	if err != nil {
		return failure(op, id, e.Spec.Name, err)
	}
	failpoint.Here("stop: not begun")
	// No lock: a second Stop may shorten the grace of the first one, and a start waits for its init containers with it.
	if len(e.Spec.InitContainers) > 0 {
		if _, err = client.Stop(ctx, initID(id), "", grace); err != nil && !errors.Is(err, runtime.ErrNotFound) {
			return failure(op, id, e.Spec.Name, err)
		}
	}
	_, err = client.Stop(ctx, id, stopSignal(e.Spec, e.StopSignal), grace)
	failpoint.Here("stop: it has ended")
	if errors.Is(err, runtime.ErrNotFound) {
		return nil // never started, or deleted since
	}
	if err == nil {
		err = r.letGo(ctx, client, id)
	}
	return failure(op, id, e.Spec.Name, err)
}

// letGo takes the root file system of a container away that has ended, and its volumes with it: each start makes another.
// Who takes its place may want a volume of another size, which it must not have mounted then.
func (r *Runtime) letGo(ctx context.Context, client *supervisor.Client, id runtime.ID) error {
	defer r.locks.lock(id)()
	state, _, err := client.Find(ctx, id)
	if err != nil || state.Running { // it was started again
		return err
	}
	return r.roots.Teardown(id)
}
