// The resources of a sample tenant: their ids as each provider writes them, and their tags with the gaps of real life.
import { type Profile, type ProviderKey, type Service, TAG_KEYS, type Workload } from "./catalog.ts";
import type { Charge } from "./csv.ts";
import { hashOf, type Random } from "./random.ts";

/** A resource: its columns on every line, its part of the series' cost, and the required tags that it lacks. */
export type Resource = { columns: Charge; share: number; lacks: ReadonlySet<string> };

const APPLICATIONS = [
  "checkout",
  "catalog",
  "telemetry",
  "billing",
  "search",
  "ingest",
  "reports",
  "gateway",
];

/** The resources of a workload: first those that a commitment covers, then the others, whose shares sum to one. */
export function makeResources(
  profile: Profile,
  workload: Workload,
  service: Service,
  random: Random,
): Resource[] {
  const weights = Array.from({ length: workload.resources }, () => 0.4 + random.uniform());
  const total = weights.slice(workload.committed).reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight, index) => {
    const application = APPLICATIONS[Math.floor(random.uniform() * APPLICATIONS.length)]!;
    const { tags, lacks } = makeTags(profile, workload, application, random);
    const columns = { ...identity(profile, workload, service, `${application}-${index + 1}`), ...tags };
    return { columns, share: weight / total, lacks };
  });
}

/** A sub-account as its provider writes it. */
export function subAccountId(provider: ProviderKey, id: string): string {
  return { aws: id, microsoft: `/subscriptions/${id}`, google: `projects/${id}` }[provider];
}

function identity(profile: Profile, workload: Workload, service: Service, name: string): Charge {
  const { id } = profile.accounts[workload.account]!;
  const { provider, code, resourceType } = service;
  const unique = hashOf(`${profile.name}/${workload.account}/${code}/${workload.region}/${name}`).toString(
    16,
  );
  const resourceId = {
    aws: `arn:aws:${code}:${workload.region}:${id}:${resourceType}/${name}-${unique}`,
    microsoft: `/subscriptions/${id}/resourceGroups/rg-${workload.account}/providers/${code}/${name}-${unique}`,
    google: `//${code}.googleapis.com/projects/${id}/locations/${workload.region}/${resourceType}s/${name}-${unique}`,
  }[provider];
  const isZonal = service.category === "Compute" && provider === "aws";
  return {
    ResourceId: resourceId,
    ResourceType: resourceType,
    ...(provider === "aws" ? {} : { ResourceName: `${name}-${unique}` }),
    ...(isZonal ? { AvailabilityZone: `${workload.region}a` } : {}),
  };
}

/** A tag that a resource lacks is absent or empty. Some keys carry a stray space, some resources no tags at all. */
function makeTags(
  profile: Profile,
  workload: Workload,
  application: string,
  random: Random,
): { tags: Charge; lacks: Set<string> } {
  const { environment, team } = profile.accounts[workload.account]!;
  const values = { environment, owner: team, cost_center: `CC-${1000 + (hashOf(team) % 9000)}` };
  const lacks = new Set<string>(TAG_KEYS.filter((key) => random.uniform() < profile.tagGaps[key]));
  if (lacks.size === TAG_KEYS.length) return { tags: {}, lacks };
  const tags: [string, string][] = [["application", application]];
  for (const key of TAG_KEYS) {
    const isAbsent = lacks.has(key) && random.uniform() < 0.7;
    const spelled = random.uniform() < 0.08 ? ` ${key}` : key;
    if (!isAbsent) tags.push([spelled, lacks.has(key) ? "" : values[key]]);
  }
  return { tags: { Tags: `{${tags.map(([key, value]) => `"${key}": "${value}"`).join(", ")}}` }, lacks };
}
