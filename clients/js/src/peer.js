// What both ends of a WebRTC connection need: to publish and to play.

const GATHERING_MS = 2000; // a browser may wait long for a dead network; what it has by then will do

/** Waits until a connection knows its own addresses. */
export function gathered(peer) {
  if (peer.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    setTimeout(resolve, GATHERING_MS);
    peer.addEventListener("icegatheringstatechange", () => peer.iceGatheringState === "complete" && resolve());
  });
}
