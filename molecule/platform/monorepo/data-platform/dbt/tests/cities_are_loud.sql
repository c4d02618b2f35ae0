select city from {{ ref('shops') }} where city <> 'LYON'
