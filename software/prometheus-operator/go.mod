// prometheus-operator and its config reloader, as Go modules: their own go.mod replaces modules by folders, so `go install` refuses them.
module software/prometheus-operator

go 1.25.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
