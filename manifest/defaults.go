package manifest

// Defaulted returns s with this release's defaults where the manifest does not say; s is not changed.
func Defaulted(s Spec) Spec { return s }
