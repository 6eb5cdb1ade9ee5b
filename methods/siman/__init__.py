"""SiMaN: binary networks whose bits say which half of a filter's magnitudes is the larger one."""
