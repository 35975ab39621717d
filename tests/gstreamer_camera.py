"""A camera of GStreamer's RTSP server: H.264 and G.711. Run by the system's Python, which has its
bindings: `python3 gstreamer_camera.py PORT {tcp,udp} [USER PASSWORD]`; it prints a line once it
listens. With a user it asks for the password by digest."""

import sys
from typing import Any

import gi  # type: ignore[import-not-found,unused-ignore]

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import (  # type: ignore[import-not-found,unused-ignore]  # noqa: E402
    GLib,
    Gst,
    GstRtsp,
    GstRtspServer,
)

PICTURES = (
    "videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=15/1 ! "
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay name=pay0 pt=96"
)
SOUND = (
    "audiotestsrc is-live=true ! audio/x-raw,rate=8000,channels=1 ! mulawenc ! rtppcmupay name=pay1"
)
ONLY = {"tcp": GstRtsp.RTSPLowerTrans.TCP, "udp": GstRtsp.RTSPLowerTrans.UDP}


def _ask_for(user: list[str], server: Any, factory: Any) -> None:
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_digest(*user, token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    for what in ("access", "construct"):
        permissions.add_permission_for_role("user", f"media.factory.{what}", True)
    factory.set_permissions(permissions)


def main() -> None:
    port, way, *user = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {PICTURES} {SOUND} )")
    factory.set_shared(True)
    factory.set_protocols(ONLY[way])
    if user:
        _ask_for(user, server, factory)
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    print("listening", flush=True)
    GLib.MainLoop().run()


main()
