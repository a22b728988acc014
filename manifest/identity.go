package manifest

import (
	"fmt"
	"strconv"
	"strings"
)

// identified is an item of a list that is told from the others by more than its place.
type identified interface {
	identity() string
	summary() string // for people
}

func (m Mount) identity() string { return m.Path }

func (m Mount) summary() string {
	var words []string
	switch {
	case m.Volume != nil:
		words = []string{"volume", m.Volume.summary()}
	case m.Config != "":
		words = []string{"config", m.Config}
	case m.Secret != "":
		words = []string{"secret", m.Secret}
	case m.HostPath != "":
		words = []string{"hostPath", printable(m.HostPath)}
	case m.Tmpfs != nil:
		words = []string{"tmpfs", m.Tmpfs.String()}
	}
	if m.Key != "" {
		words = append(words, "key", m.Key)
	}
	if m.ReadOnly != nil && *m.ReadOnly {
		words = append(words, "readOnly")
	}
	return strings.Join(words, " ")
}

// summary shows a volume as it is written.
func (v VolumeSource) summary() string {
	if v.Size == nil {
		return v.Name
	}
	return "{name: " + v.Name + ", size: " + v.Size.String() + "}"
}

func (d Dependency) identity() string { return d.Name }

func (d Dependency) summary() string { return string(d.Condition) }

func (p Port) identity() string {
	id := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
	if p.HostPort != nil {
		id = fmt.Sprintf("%s:%d->%s", p.HostIP, *p.HostPort, id)
	}
	return strings.TrimPrefix(id, ":")
}

func (p Port) summary() string { return p.identity() }

func (i InitContainer) identity() string { return i.Name }

func (i InitContainer) summary() string { return printable(i.Image) }

func (d Device) identity() string { return d.Path }

func (d Device) summary() string { return d.Permissions }

// summary shows a plain value as it is, and a reference as it is written.
func (v EnvValue) summary() string {
	switch {
	case v.Node != "":
		return "{node: " + v.Node + "}"
	case v.Label != "":
		return "{label: " + v.Label + "}"
	case v.Secret != "":
		return "{secret: " + v.Secret + ", key: " + v.Key + "}"
	case v.Config != "":
		return "{config: " + v.Config + ", key: " + v.Key + "}"
	case strings.HasPrefix(v.Value, "{"):
		return strconv.Quote(v.Value) // so that it never looks like a reference
	default:
		return printable(v.Value)
	}
}
