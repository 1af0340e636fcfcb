"""The HTTP server: HTTP/1.1 and WebSockets on the public port, with limits for unauthenticated clients.

Connections are always accepted, so that the operating system's queue never fills. Connections that wait for the client
(to send a request, or to read the answer) have deadlines, and are closed earlier if an address has too many or the
process has no capacity. Clients with a valid key, session or signed link do not count against their address.
"""
