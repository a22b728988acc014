package supervisor

import (
	"os"
	goruntime "runtime"

	_ "github.com/opencontainers/cgroups/devices" // libcontainer sets device rules through it
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins namespaces in C before Go starts

	"reconciler/runtime/calm"
)

// init is the other end of libcontainer: it executes this binary again, as "init", inside the namespaces of a new
// container. The environment is checked too, so that "init" as an argument of somebody else's program means nothing;
// test binaries work because this runs before their main.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != "" {
		_ = calm.Thread(calm.Usual) // the command is executed on this thread, and shall not inherit what startProcess set
		sendNetns()
		libcontainer.Init()
	}
	if len(os.Args) > 1 && os.Args[1] == "supervisor" {
		// For each start libcontainer has a goroutine enter the mounts of the container, and ends its thread with it. The main
		// thread cannot be ended: Go parks it for good, and it would hold those mounts as long as this process lives. So the main
		// goroutine keeps it for itself, which has nothing else to do.
		goruntime.LockOSThread()
	}
}
