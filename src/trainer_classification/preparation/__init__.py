"""How a prepared dataset is made: inspect, decode in jobs, write every format, check."""
