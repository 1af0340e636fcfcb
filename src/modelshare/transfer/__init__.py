"""Downloads by signed URLs, for agents and the client: verified, in parallel, resumable. No HTTP library is chosen."""
