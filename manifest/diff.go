package manifest

// Diff returns what differs between two workloads, field by field and sorted, after both got the same defaults. It is
// empty where nothing does. Secrets' contents are not known here; Config content is shown as a digest.
func Diff(from, to Workload) []Change { return nil }

// Strongest returns the strongest class among changes, ClassNone where there are none.
func Strongest(changes []Change) Class { return ClassNone }
