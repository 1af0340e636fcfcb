"""The HTTP server: the public port, HTTP/1.1 and WebSockets in front of the application, and limits for strangers.

Connections are always taken in, so that the queue of the operating system never fills. Those that we wait for (for a
request, the rest of one, or for its answer to be taken) have deadlines, and are closed early where one address has too
many of them or the process has no room for more; whoever has shown a key, a session or a signed link is not counted.
"""
