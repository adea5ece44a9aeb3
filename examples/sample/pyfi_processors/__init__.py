"""Processors to try pyfi_hpc with; they need nothing but Python."""
