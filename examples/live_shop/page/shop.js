// The viewers' page: video by WHEP, the card of what is held, questions and answers.

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

at("ask").onsubmit = async (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (!question) return;
  at("question").value = "";
  const line = document.createElement("li");
  line.append(Object.assign(document.createElement("q"), { textContent: question }));
  at("answers").prepend(line);
  const told = document.createElement("p");
  told.textContent = "…";
  line.append(told);
  try {
    const reply = await fetch("/ask", { method: "POST", body: JSON.stringify({ question }) });
    if (!reply.ok) throw new Error(await reply.text());
    const { answer, products } = await reply.json();
    told.textContent = answer;
    line.append(...products.map(link));
  } catch (error) {
    told.textContent = `No answer: ${error.message}`;
  }
};

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
