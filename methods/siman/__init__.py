"""SiMaN: binary networks whose bits mark the larger half of a filter's magnitudes."""
