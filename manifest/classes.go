package manifest

import "strings"

// Classes says what a change of each field of the spec asks for. A field without a line of its own has its parent's;
// a test fails for a field that has neither.
func Classes() map[string]Class {
	return map[string]Class{
		"platform":        ClassTakeOver,
		"image":           ClassReplace,
		"imagePullPolicy": ClassTakeOver,
		"capture":         ClassReplace,

		"command":    ClassReplace,
		"args":       ClassReplace,
		"workingDir": ClassReplace,
		"env":        ClassReplace,
		"envFrom":    ClassReplace,
		"hostname":   ClassReplace,
		"init":       ClassReplace,

		"network":    ClassReplace,
		"ports":      ClassLimits, // rules are swapped, the process is not touched
		"dns":        ClassReplace,
		"extraHosts": ClassReplace,

		"resources.requests":       ClassTakeOver,
		"resources.limits.cpu":     ClassLimits,
		"resources.limits.memory":  ClassLimits,
		"resources.limits.pids":    ClassLimits,
		"resources.limits.ingress": ClassLimits,
		"resources.limits.egress":  ClassLimits,
		"resources.limits.disk":    ClassReplace,
		"logs":                     ClassTakeOver,

		"mounts":          ClassReplace,
		"mounts.onChange": ClassTakeOver,
		"devices":         ClassReplace,
		"shmSize":         ClassReplace,
		"ulimits":         ClassReplace,
		"sysctls":         ClassReplace,

		"startupProbe":                  ClassTakeOver,
		"readinessProbe":                ClassTakeOver,
		"livenessProbe":                 ClassTakeOver,
		"lifecycle":                     ClassTakeOver,
		"initContainers":                ClassReplace,
		"restartPolicy":                 ClassTakeOver,
		"restartBackoff":                ClassTakeOver,
		"stopSignal":                    ClassTakeOver,
		"terminationGracePeriodSeconds": ClassTakeOver,
		"dependsOn":                     ClassTakeOver,
		"strategy":                      ClassTakeOver,

		"securityContext": ClassReplace,

		"backoffLimit":            ClassTakeOver,
		"activeDeadlineSeconds":   ClassTakeOver,
		"ttlSecondsAfterFinished": ClassTakeOver,
		"script":                  ClassReplace,
		"onNewNode":               ClassTakeOver,

		"schedule":                   ClassTakeOver,
		"timeZone":                   ClassTakeOver,
		"concurrencyPolicy":          ClassTakeOver,
		"startingDeadlineSeconds":    ClassTakeOver,
		"suspend":                    ClassTakeOver,
		"successfulJobsHistoryLimit": ClassTakeOver,
		"failedJobsHistoryLimit":     ClassTakeOver,
	}
}

// classOf returns the class of a field of the spec, given without indexes and keys: mounts.path.
func classOf(table map[string]Class, field string) Class {
	for {
		if c, ok := table[field]; ok {
			return c
		}
		i := strings.LastIndexByte(field, '.')
		if i < 0 {
			return ClassReplace // the safe side; the test keeps it from happening
		}
		field = field[:i]
	}
}

// Strongest returns the strongest class among changes, ClassNone where there are none.
func Strongest(changes []Change) Class {
	strongest := ClassNone
	for _, c := range changes {
		strongest = stronger(strongest, c.Class)
	}
	return strongest
}

func stronger(a, b Class) Class {
	if b.rank() > a.rank() {
		return b
	}
	return a
}

// rank orders the classes, mildest first.
func (c Class) rank() int {
	switch c {
	case ClassNone:
		return 0
	case ClassTakeOver:
		return 1
	case ClassLimits:
		return 2
	case ClassReplace:
		return 3
	default:
		return 4
	}
}
