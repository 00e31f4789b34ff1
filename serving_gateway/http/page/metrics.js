// Metrics: counters of two replicas, or of two lives of one, are never subtracted.
const heard = new Map(); // replica id -> samples of the last WINDOW_MS, oldest first

function parse({ text, at }, model) {
  const sample = { replica: null, at, counts: new Map() };
  for (const line of text.split("\n")) {
    const found = /^(gateway_(?:info|predictions_total|prediction_seconds_bucket))\{(.*)\} (\S+)$/.exec(line);
    if (!found) continue;
    const label = Object.fromEntries([...found[2].matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((pair) => pair.slice(1)));
    if (found[1] === "gateway_info") sample.replica = label.replica;
    else if ((label.model ?? model) === model) {
      const what = label.outcome ?? label.le.replace("+Inf", "Infinity");
      sample.counts.set([label.variant, label.version, what].join(" "), Number(found[3]));
    }
  }
  return sample;
}

function note(sample, replicas) {
  const listed = new Set(replicas.map((replica) => replica.id));
  for (const [id, samples] of heard) {
    const kept = samples.filter((old) => old.at > sample.at - WINDOW_MS);
    // Where the list holds this kind of id, one that is not in it has ended.
    const ended = listed.has(sample.replica) && !listed.has(id);
    if (kept.length && !ended) heard.set(id, kept);
    else heard.delete(id);
  }
  if (sample.replica === null) return;
  const before = heard.get(sample.replica) ?? [];
  const fell = [...(before.at(-1)?.counts ?? [])].some(([key, count]) => !(sample.counts.get(key) >= count));
  heard.set(sample.replica, fell ? [sample] : [...before, sample]);
}

/** What one version of a variant, or all, did in the window, on replicas heard twice; null when none was. */
function measure(alias, version = null) {
  const sum = { rate: 0, errors: 0, buckets: new Map() };
  const measured = [...heard.values()].filter((samples) => samples.length > 1);
  for (const samples of measured) {
    const [first, last] = [samples[0], samples.at(-1)];
    const seconds = (last.at - first.at) / 1000;
    for (const [key, count] of last.counts) {
      const [variant, number, what] = key.split(" ");
      if (variant !== alias || ![null, Number(number)].includes(version)) continue;
      const grown = count - (first.counts.get(key) ?? 0);
      if (what === "answered") sum.rate += grown / seconds;
      else if (what === "failed") sum.errors += grown / seconds;
      else sum.buckets.set(Number(what), (sum.buckets.get(Number(what)) ?? 0) + grown);
    }
  }
  return measured.length ? sum : null;
}

/** In seconds, as Prometheus does it: linear inside the bucket that holds it; null without requests. */
function quantile(share, buckets) {
  const sorted = [...buckets].sort(([one], [other]) => one - other);
  const wanted = share * (sorted.at(-1)?.[1] ?? 0);
  let [low, below] = [0, 0];
  for (const [bound, count] of sorted) {
    if (wanted > 0 && count >= wanted) {
      return bound === Infinity ? { low, beyond: true } : { low: low + ((bound - low) * (wanted - below)) / (count - below) };
    }
    [low, below] = [bound, count];
  }
  return null;
}

function latency(share, buckets) {
  const found = quantile(share, buckets);
  return found ? `${found.beyond ? "over " : ""}${duration(found.low)}` : "–";
}
