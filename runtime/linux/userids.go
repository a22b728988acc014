package linux

import (
	"errors"

	"reconciler/runtime"
	"reconciler/runtime/rootfs"
)

// leaseIDs returns the first of the user ids that a container has for its own, 0 where it has the server's. Who shares the
// network of another has that one's: power over a network belongs to users.
func (r *Runtime) leaseIDs(e entry, net connection) (uint32, error) {
	switch {
	case net.joined != 0:
		if own := e.Spec.Security.HostUsers; net.firstID == 0 && own != nil && !*own {
			return 0, &runtime.Error{
				Op: "give " + e.Spec.Name.String() + " user ids of its own", Err: errors.New("the container whose network it shares has the server's"),
				Reason: runtime.ReasonIncompatible, Hint: "give that one user ids of its own too, or leave hostUsers out of this one",
			}
		}
		return net.firstID, nil
	case !mayOwnIDs(e.Spec):
		return 0, nil
	}
	return r.ids.Lease(r.state.dir(e.ID), e.last.FirstID)
}

// releaseIDs gives back the user ids of a container that is removed. The range is on record from before it is used on; only
// where none is, every range there is has to be asked whose it is.
func (r *Runtime) releaseIDs(e entry, id runtime.ID) error {
	if e.last.FirstID != 0 {
		return r.ids.Release(r.state.dir(id), e.last.FirstID)
	}
	return r.ids.ReleaseAll(r.state.dir(id))
}

// mayOwnIDs says whether a container is to have user ids of its own, if this server can do that. A user namespace has no
// power over the server's network, so that what joins that has the server's users too.
func mayOwnIDs(spec runtime.Spec) bool {
	if spec.Security.Privileged {
		return false
	}
	if spec.Security.HostUsers != nil {
		return !*spec.Security.HostUsers
	}
	return spec.Network != runtime.NetworkHost
}

// checkIDs says whether a container that must have user ids of its own can.
func (r *Runtime) checkIDs(spec runtime.Spec) error {
	if spec.Security.HostUsers == nil || *spec.Security.HostUsers {
		return nil
	}
	err := r.roots.Mappable(spec.Mounts)
	if why, ok := errors.AsType[*rootfs.NotMappableError](err); ok {
		return cannotMap(spec.Name, why)
	}
	return err
}

func cannotMap(name runtime.Name, why error) error {
	return &runtime.Error{
		Op: "give " + name.String() + " user ids of its own", Err: why, Reason: runtime.ReasonIncompatible, Permanent: true,
		Hint: "mend that (`reconciler doctor` says how), leave hostUsers out to have them where it is possible, or say `hostUsers: true`",
	}
}
