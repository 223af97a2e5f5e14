// Server-sent events with a key: the browser's own reader of them can send no header, and a key has
// no place in an address.

// Calls tell(name, data) for every event until the stream ends; throws what keeps it from being read.
export async function follow(url, key, tell) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(url, { headers, cache: "no-store" });
  if (!answer.ok) throw Object.assign(new Error(`the server answers ${answer.status}`), { status: answer.status });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const one of events) read(one, tell);
  }
}

function read(lines, tell) {
  const fields = Object.fromEntries(lines.split("\n").map((line) => line.split(/: (.*)/s, 2)));
  tell(fields.event, JSON.parse(fields.data));
}
