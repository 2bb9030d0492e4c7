// Numbers, sizes and times for people.

const integer = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const digits = [0, 1, 2, 3].map((most) => new Intl.NumberFormat(undefined, { maximumFractionDigits: most }));
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minute = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export const UNKNOWN = "–";

export function formatNumber(value) {
  if (value === null || value === undefined) return UNKNOWN;
  const size = Math.abs(value);
  return (size >= 100 ? integer : digits[size >= 10 ? 1 : 2]).format(value);
}

export function formatBytes(bytes) {
  if (bytes === null || bytes === undefined) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let index = 0;
  while (bytes >= 1024 && index < units.length - 1) { bytes /= 1024; index += 1; }
  return `${formatNumber(bytes)} ${units[index]}`;
}

export function formatSeconds(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (seconds < 1) return `${integer.format(seconds * 1000)} ms`;
  if (seconds < 60) return `${digits[seconds < 10 ? 2 : 1].format(seconds)} s`;
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = parts.findIndex(([, length]) => seconds >= length);
  let rest = Math.round(seconds);
  return parts.slice(first, first + 2).map(([unit, length]) => {
    const count = Math.floor(rest / length);
    rest -= count * length;
    return `${count} ${unit}`;
  }).filter((part) => !part.startsWith("0 ")).join(" ") || "0 s";
}

const toDate = (time) => new Date(typeof time === "number" ? time * 1000 : time);
export const formatTime = (time) => clock.format(toDate(time));
export const formatMinute = (time) => minute.format(toDate(time));
export const formatDay = (time) => day.format(toDate(time));
export const formatMoment = (time) => (time ? moment.format(toDate(time)) : UNKNOWN);

export const plural = (count, one, many = `${one}s`) => `${integer.format(count)} ${count === 1 ? one : many}`;
