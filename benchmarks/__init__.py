"""Side-by-side measurements of a training step: `make bench` on the CPU, `make bench-gpu`."""
