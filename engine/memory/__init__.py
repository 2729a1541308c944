"""Where vectors are remembered: one protocol, several stores."""
