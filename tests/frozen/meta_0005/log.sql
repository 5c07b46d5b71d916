BEGIN TRANSACTION;
CREATE TABLE access_key_use (
	access_key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	used_at INTEGER NOT NULL, 
	CONSTRAINT pk_access_key_use PRIMARY KEY (access_key_id)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('log_0003');
CREATE TABLE encryption_count (
	material_id TEXT NOT NULL, 
	reserved INTEGER NOT NULL, 
	CONSTRAINT pk_encryption_count PRIMARY KEY (material_id), 
	CONSTRAINT ck_encryption_count_reserved CHECK (reserved >= 0)
);
INSERT INTO "encryption_count" VALUES('cc9d77b990e4a1d6036babce8423b7e714fe93a80523e9c579e63b54f667783a',1);
INSERT INTO "encryption_count" VALUES('7941743aa0e64806a71a31c92aeab786d59794625b848220f013a6d6a361d9fb',1);
INSERT INTO "encryption_count" VALUES('ddccfbf2a6475c448daaad2f299e4068d7790b7ae21556c3a67b730f50774fef',1);
INSERT INTO "encryption_count" VALUES('c0ae63154bdf9b7f1fec41d6808bb6779fd5b5ee7313ad95c9d0df9c62ee9789',1);
CREATE TABLE last_use (
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	operation TEXT NOT NULL, 
	used_at INTEGER NOT NULL, 
	request_id TEXT NOT NULL, 
	CONSTRAINT pk_last_use PRIMARY KEY (key_id, region), 
	CONSTRAINT ck_last_use_operation CHECK (operation IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac', 'Encapsulate', 'Decapsulate'))
);
INSERT INTO "last_use" VALUES('3b3e76db-aec3-44aa-9915-db8f808e70dd','eu-central-1','Encrypt',1795686417329282,'2acd9d20-fb40-45ef-a122-4357c524b337');
INSERT INTO "last_use" VALUES('fecb685a-ff82-45f2-b36e-8c5e756ce0b1','eu-central-1','Encrypt',1795686431457808,'54189e97-cbe7-4918-a920-b731fa7664f9');
INSERT INTO "last_use" VALUES('mrk-6f9ff15d52a9494bb04d154d9cd4ae57','eu-central-1','Encrypt',1795686439102751,'677803d0-18e6-4633-adc6-a9a9fe2870b3');
CREATE TABLE sweeper (
	only INTEGER NOT NULL, 
	holder TEXT NOT NULL, 
	until INTEGER NOT NULL, 
	CONSTRAINT pk_sweeper PRIMARY KEY (only), 
	CONSTRAINT ck_sweeper_only CHECK (only = 1)
);
CREATE TABLE use_tracking (
	only INTEGER NOT NULL, 
	since INTEGER NOT NULL, 
	CONSTRAINT pk_use_tracking PRIMARY KEY (only), 
	CONSTRAINT ck_use_tracking_only CHECK (only = 1)
);
INSERT INTO "use_tracking" VALUES(1,1795686403493635);
COMMIT;
