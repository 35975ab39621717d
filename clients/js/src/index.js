// Sightline for browsers and Node.js: a server, conversations about what a session sees, and in
// browsers its video, a camera for it, and a voice.

export { Answer } from "./answer.js";
export { Camera } from "./camera.js";
export { Sightline } from "./client.js";
export { Connection } from "./connection.js";
export { inWords, SightlineError } from "./errors.js";
export { Player } from "./player.js";
export { Speech } from "./speech.js";
export { holdable, Voice } from "./voice.js";
export { Watch } from "./watch.js";
