package manifest

import "encoding/json"

// The types below are written in two ways, as a scalar or as a mapping. Their JSON does the same, so that a stored
// workload reads like its manifest.

// MarshalJSON writes a plain value as a string and a reference as an object.
func (v EnvValue) MarshalJSON() ([]byte, error) {
	type mapping EnvValue
	if !v.IsReference() {
		return json.Marshal(v.Value)
	}
	return json.Marshal(mapping(v))
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (v *EnvValue) UnmarshalJSON(b []byte) error {
	type mapping EnvValue
	return eitherJSON(b, &v.Value, (*mapping)(v))
}

// IsReference reports whether the value stands elsewhere.
func (v EnvValue) IsReference() bool {
	return v.Node != "" || v.Label != "" || v.Secret != "" || v.Config != "" || v.Key != ""
}

// MarshalJSON writes a path that is the same on both sides as a string, else an object.
func (p CapturePath) MarshalJSON() ([]byte, error) {
	type mapping CapturePath
	if p.To == "" {
		return json.Marshal(p.From)
	}
	return json.Marshal(mapping(p))
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (p *CapturePath) UnmarshalJSON(b []byte) error {
	type mapping CapturePath
	return eitherJSON(b, &p.From, (*mapping)(p))
}

// MarshalJSON writes a volume without a size as a string, else an object.
func (v VolumeSource) MarshalJSON() ([]byte, error) {
	type mapping VolumeSource
	if v.Size == nil {
		return json.Marshal(v.Name)
	}
	return json.Marshal(mapping(v))
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (v *VolumeSource) UnmarshalJSON(b []byte) error {
	type mapping VolumeSource
	return eitherJSON(b, &v.Name, (*mapping)(v))
}

// MarshalJSON writes a name alone as a string, else an object.
func (d Dependency) MarshalJSON() ([]byte, error) {
	type mapping Dependency
	if d.Condition == "" {
		return json.Marshal(d.Name)
	}
	return json.Marshal(mapping(d))
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (d *Dependency) UnmarshalJSON(b []byte) error {
	type mapping Dependency
	return eitherJSON(b, &d.Name, (*mapping)(d))
}

// MarshalJSON writes an action as a string, and a signal as an object.
func (c OnChange) MarshalJSON() ([]byte, error) {
	type mapping OnChange
	if c.Action != OnChangeSignal {
		return json.Marshal(c.Action)
	}
	return json.Marshal(mapping(c))
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (c *OnChange) UnmarshalJSON(b []byte) error {
	type mapping OnChange
	if err := eitherJSON(b, &c.Action, (*mapping)(c)); err != nil {
		return err
	}
	if c.Signal != "" {
		c.Action = OnChangeSignal
	}
	return nil
}

func eitherJSON(b []byte, scalar, mapping any) error {
	if len(b) > 0 && b[0] == '{' {
		return json.Unmarshal(b, mapping)
	}
	return json.Unmarshal(b, scalar)
}
