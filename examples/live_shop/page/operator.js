// The operators' page: what may not be shown, with picture and seconds, until somebody has seen to it.

const list = document.getElementById("alarms");

function add(alarm) {
  if (document.getElementById(alarm.id)) return;
  const line = document.createElement("li");
  line.id = alarm.id;
  line.className = alarm.active ? "alarm" : "alarm over";
  const base = `/alarms/${alarm.id}`;
  const picture = Object.assign(document.createElement("img"), { src: `${base}/picture`, alt: "" });
  const text = document.createElement("p");
  const when = new Date(alarm.time_ns / 1e6).toLocaleString();
  text.textContent = `${when}  ${alarm.rule_name}${alarm.active ? "" : ": over"}`;
  line.append(picture, text);
  if (alarm.clip) {
    const clip = Object.assign(document.createElement("a"), { href: `${base}/clip`, target: "_blank" });
    clip.textContent = "Seconds before and after";
    line.append(clip);
  }
  const done = Object.assign(document.createElement("button"), { textContent: "Acknowledge" });
  done.onclick = async () => {
    const reply = await fetch(`${base}/acknowledge`, { method: "POST" });
    if (reply.ok) line.remove();
  };
  line.append(done);
  list.prepend(line);
}

new EventSource("/alarms").onmessage = (event) => add(JSON.parse(event.data));
