// A stand-in for Prometheus, for the operator's pods: it is ready, is reloaded, and shows the configuration that it was given.
module software/prometheus

go 1.25.0
