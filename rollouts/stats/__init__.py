"""Always-valid statistics: pure numpy and scipy, every formula with its source."""
