module github.com/dsv4mx/dsv4mx/examples/go

go 1.25.0

require github.com/dsv4mx/dsv4mx/bindings/go v0.1.0

require github.com/ebitengine/purego v0.11.3 // indirect

replace github.com/dsv4mx/dsv4mx/bindings/go => ../../bindings/go
