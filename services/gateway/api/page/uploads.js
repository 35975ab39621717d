// A video file that is dropped on the page, or chosen: it is sent to the server, which shows it.

import { byId, notice, setText } from "./dom.js";
import { server } from "./server.js";

const MOST_CHARACTERS = 70; // of a session's name, with room for a number

/** Lets files be handed over where the server takes them. taken: the names that sessions have. */
export async function offerUploads({ onCreated, taken }) {
  const largest = await server.largestUpload().catch(() => 0);
  if (!largest) return;
  const [button, chooser] = [byId("upload"), byId("upload-file")];
  button.hidden = false;

  async function show(file) {
    if (!file || button.disabled) return;
    if (file.size > largest) return notice(`${file.name} is too large: at most ${Math.floor(largest / 1e6)} MB.`);
    button.disabled = true;
    setText(button, "Sending …");
    try {
      onCreated(await server.upload(file, freeName(file.name, taken())));
    } catch (error) {
      notice(`${file.name}: ${error.message}`);
    } finally {
      button.disabled = false;
      setText(button, "Show a file");
    }
  }

  button.addEventListener("click", () => chooser.click());
  chooser.addEventListener("change", () => {
    show(chooser.files[0]);
    chooser.value = ""; // the same one may be chosen again
  });
  const root = document.documentElement;
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    root.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) root.classList.remove("dropping"); // it left the window
  });
  addEventListener("drop", (event) => {
    root.classList.remove("dropping");
    if (!holdsFiles(event)) return;
    event.preventDefault();
    show(event.dataTransfer.files[0]);
  });
}

function freeName(name, taken) {
  const short = name.slice(0, MOST_CHARACTERS);
  for (let number = 1; ; number += 1) {
    const wanted = number === 1 ? short : `${short} ${number}`;
    if (!taken.includes(wanted)) return wanted;
  }
}
