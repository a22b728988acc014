package api

import (
	"context"
	goruntime "runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"reconciler/reconcile/report"
)

// listTimeout bounds the look at the containers that a scrape takes.
const listTimeout = 5 * time.Second

// collector makes the metrics from the agent's counters and view at each scrape.
type collector struct {
	agent   Agent
	version string

	buildInfo, appInfo, reconciles, reconcileSeconds, fetches, lastApplied *prometheus.Desc
	restarts, drift, rollbacks, blocked, pulled, written                   *prometheus.Desc
}

func newCollector(agent Agent, version string) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("reconciler_"+name, help, labels, nil)
	}
	return &collector{
		agent: agent, version: version,
		buildInfo:        desc("build_info", "The program that runs; always 1.", "version", "goversion"),
		appInfo:          desc("app_info", "A container that is meant to be here; always 1.", "name", "sync", "health"),
		reconciles:       desc("reconcile_total", "Looks at what should run and what does, by result.", "result"),
		reconcileSeconds: desc("reconcile_duration_seconds", "How long a look took, steps apart."),
		fetches:          desc("source_fetch_total", "Looks at the source, by result.", "result"),
		lastApplied:      desc("last_applied_timestamp_seconds", "When a commit was last applied; 0: never."),
		restarts:         desc("container_restarts_total", "Restarts of containers that ended by themselves.", "name", "reason"),
		drift:            desc("drift_detected_total", "Containers, limits and network found other than they were left."),
		rollbacks:        desc("rollback_total", "Updates of containers that failed and were gone back from."),
		blocked:          desc("guard_blocked_total", "Commits that a guard stopped."),
		pulled:           desc("image_pull_bytes_total", "Bytes of images brought here."),
		written:          desc("state_bytes_written_total", "Bytes written to the state directory."),
	}
}

// Describe sends the description of every metric.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.buildInfo, c.appInfo, c.reconciles, c.reconcileSeconds, c.fetches, c.lastApplied,
		c.restarts, c.drift, c.rollbacks, c.blocked, c.pulled, c.written,
	} {
		ch <- d
	}
}

// Collect sends every metric as it is now.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	n := c.agent.Counters()
	gauge(c.buildInfo, 1, c.version, goruntime.Version())
	for result, v := range n.Reconciles {
		counter(c.reconciles, float64(v), result)
	}
	h := n.ReconcileSeconds
	ch <- prometheus.MustNewConstHistogram(c.reconcileSeconds, h.Count, h.Sum, h.Buckets)
	for result, v := range n.Fetches {
		counter(c.fetches, float64(v), result)
	}
	for key, v := range n.Restarts {
		counter(c.restarts, float64(v), key.Name.String(), key.Reason)
	}
	counter(c.drift, float64(n.Drift))
	counter(c.rollbacks, float64(n.Rollbacks))
	counter(c.blocked, float64(n.GuardBlocked))
	counter(c.pulled, float64(n.ImagePullBytes))
	counter(c.written, float64(n.StateBytesWritten))
	c.view(gauge)
}

// view sends what is known from the last look rather than counted.
func (c *collector) view(gauge func(*prometheus.Desc, float64, ...string)) {
	ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
	defer cancel()
	v, err := c.agent.View(ctx)
	if err != nil {
		return // the agent is starting or stopping
	}
	applied := 0.0
	if at := v.State.AppliedAt; !at.IsZero() {
		applied = float64(at.UnixMilli()) / 1000
	}
	gauge(c.lastApplied, applied)
	sync := report.StatusOf(v).Sync
	for _, row := range report.Rows(v, false) {
		gauge(c.appInfo, 1, row.FullName().String(), sync, row.Health)
	}
}
