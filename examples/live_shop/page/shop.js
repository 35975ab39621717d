// The viewers' page: video by WHEP, the card of what is held, questions by text and by voice, answers.

import { holdToTalk } from "./voice.js";

const at = (id) => document.getElementById(id);

function link(product) {
  const a = document.createElement("a");
  a.textContent = `${product.names[0]} ${product.price ?? ""}`;
  if (product.link) {
    a.href = `/go/${encodeURIComponent(product.sku)}`;
    a.target = "_blank";
    a.rel = "noopener";
  }
  return a;
}

function show(card) {
  at("card").hidden = !card;
  if (!card) return;
  at("name").textContent = card.names[0];
  at("price").textContent = card.price ?? "";
  at("link").href = `/go/${encodeURIComponent(card.sku)}`;
  at("link").hidden = !card.link;
  at("picture").hidden = !card.picture;
  if (card.picture) at("picture").src = card.picture;
}

new EventSource("/events").onmessage = (event) => show(JSON.parse(event.data).card);

async function ask(where, body, words = "…") {
  const line = document.createElement("li");
  const asked = Object.assign(document.createElement("q"), { textContent: words });
  const told = Object.assign(document.createElement("p"), { textContent: "…" });
  line.append(asked, told);
  at("answers").prepend(line);
  try {
    const reply = await fetch(where, { method: "POST", body });
    if (!reply.ok) throw new Error(await reply.text());
    const { question, answer, products, aloud } = await reply.json();
    asked.textContent = question;
    told.textContent = answer;
    line.append(...products.map(link));
    return aloud;
  } catch (error) {
    told.textContent = `No answer: ${error.message}`;
  }
}

at("ask").onsubmit = (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  at("question").value = "";
  if (question) ask("/ask", JSON.stringify({ question }), question);
};

// Who speaks is answered aloud; whoever speaks again does not listen any more.
const answer = new Audio();
holdToTalk(
  at("talk"),
  () => answer.pause(),
  async (recording) => {
    const aloud = await ask("/say", recording);
    if (!aloud) return;
    answer.src = aloud;
    answer.play().catch(() => {}); // nobody speaks here
  },
  (why) => Object.assign(at("talk"), { disabled: true, title: why, textContent: why }),
);
fetch("/hears").then(async (reply) => (at("talk").hidden = !(await reply.json()).hears));

async function play() {
  const peer = new RTCPeerConnection();
  const stream = new MediaStream();
  peer.ontrack = ({ track }) => {
    stream.addTrack(track);
    at("video").srcObject = stream;
  };
  peer.onconnectionstatechange = () => {
    if (peer.connectionState === "failed") {
      peer.close();
      setTimeout(play, 1000);
    }
  };
  peer.addTransceiver("video", { direction: "recvonly" });
  await peer.setLocalDescription(await peer.createOffer());
  const headers = { "Content-Type": "application/sdp" };
  const body = peer.localDescription.sdp;
  const reply = await fetch("/video", { method: "POST", headers, body });
  if (reply.ok) await peer.setRemoteDescription({ type: "answer", sdp: await reply.text() });
  else setTimeout(play, 3000);
}
play();
