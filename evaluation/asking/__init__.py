"""Questions of a file to a running server: read, asked, judged, and kept so that a run goes on where it was stopped."""
