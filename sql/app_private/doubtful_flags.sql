create or replace function app_private.doubtful_flags() returns text[]
language sql
immutable
parallel safe
return array[
  'effective_zero_billed_positive', 'invalid_effective_cost', 'bad_period', 'duplicate_line',
  'mixed_currency'];

comment on function app_private.doubtful_flags is
  'The data-quality flags that touch EffectiveCost: what is summed from such lines has confidence low.';
