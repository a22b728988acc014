package rootfs

import "time"

// Volume is a named directory that outlives its containers.
type Volume struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Owner is the container ("namespace/name") that it belongs to; empty for a shared one.
	Owner     string    `json:"owner,omitempty"`
	Shared    bool      `json:"shared,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
	// Path is where its content is on this server.
	Path string `json:"path"`
	// UsedBy are the containers ("namespace/name") that mount it now; Orphan means that there are none.
	UsedBy []string `json:"usedBy"`
	Orphan bool     `json:"orphan"`
}
