// What clients run by exec, attach and port-forward: there is no shell in an image without a distribution.
module software/shell

go 1.25.0
