create or replace function app_private.tier_of(
  plan app.plans, last_active_at timestamptz, pinned_tier text, at timestamptz)
returns text
language sql
stable
parallel safe
return coalesce(pinned_tier,
  case when last_active_at < at - plan.dormant_after then 'DORMANT' else plan.tier end);

comment on function app_private.tier_of is
  'The cohort of a tenant at a moment: the one it is pinned to, else DORMANT when it was not active for as long as its plan '
  'says, else that of its plan.';

grant execute on function app_private.tier_of to holdfast_system;
