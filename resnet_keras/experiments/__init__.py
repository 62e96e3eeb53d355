"""Why residual nets exist, measured: plain against residual nets, and what the shortcut does to them."""
