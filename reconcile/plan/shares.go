package plan

import (
	"strings"

	"reconciler/manifest"
	"reconciler/runtime"
)

// sharedWith returns the container whose network one of namespace has; false where it is none's.
func sharedWith(network runtime.Network, namespace string) (manifest.Name, bool) {
	other, ok := strings.CutPrefix(string(network), runtime.NetworkContainerPrefix)
	return manifest.Name{Namespace: namespace, Name: other}, ok
}

// cutOff says why a running container has to be started again to have a network: the start that it shares one with is
// over, and there is another one. Empty: it need not.
func (c *computation) cutOff(s *runtime.Status) string {
	other, ok := sharedWith(s.Spec.Network, s.Spec.Name.Namespace)
	if !ok || s.Shares == nil {
		return ""
	}
	why := ""
	for _, o := range c.observed[other] {
		switch {
		case o.State != runtime.StateRunning:
		case o.ID == s.Shares.ID && o.Starts == s.Shares.Starts:
			return ""
		default:
			why = "shares the network of " + other.Short() + ", which was started again"
		}
	}
	return why
}
