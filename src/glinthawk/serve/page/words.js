// Numbers, sizes and times in words.

const UNITS = ["B/s", "kB/s", "MB/s", "GB/s"];
const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const exact = new Intl.DateTimeFormat([], { timeStyle: "medium", hourCycle: "h23" });
const day = new Intl.DateTimeFormat([], { month: "short", day: "numeric" });

export const count = (value) => Math.round(value).toLocaleString("en");

// Three digits that count.
export function rate(value) {
  if (value >= 100 || value === 0) return count(value);
  return value.toFixed(value >= 10 ? 1 : 2);
}

export const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)}%`);

// Of bytes a second: a number and its unit.
export function speed(bytes) {
  let unit = 0;
  for (; bytes >= 1000 && unit < UNITS.length - 1; unit++) bytes /= 1000;
  return [unit ? rate(bytes) : count(bytes), UNITS[unit]];
}

export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours >= 10 && hours < 48) return `${Math.round(minutes / 60)} h`;
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.round(hours / 24)} days`;
}

export const second = (at) => exact.format(new Date(1000 * at));

// Of a moment: the time, with its day where that is another one.
export function moment(at, now) {
  const then = new Date(1000 * at);
  const isToday = then.toDateString() === new Date(1000 * now).toDateString();
  return isToday ? clock.format(then) : `${day.format(then)}, ${clock.format(then)}`;
}
