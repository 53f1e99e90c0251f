"""The parts of bench/control_plane.py: servers, load, far side; one module a measurement."""
